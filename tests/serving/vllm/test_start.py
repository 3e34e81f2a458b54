"""How the plugin starts: configuration, versions of vLLM, ways to tell the load."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
import vllm
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from servegym.agents.serving.plugins import vllm_versions
from servegym.agents.serving.plugins.vllm import CONFIG_VARIABLE, ServegymScheduler
from servegym.agents.serving.plugins.vllm_load import NAMES, IterationTimes
from servegym.costmodels.errors import InputError
from tests.serving.vllm.stepping import make_request, make_scheduler, run

ZOO = Path(__file__).parents[3] / "agents" / "zoo"


def test_both_schedulers_are_vllms_with_hooks():
    assert isinstance(make_scheduler(is_async=True), AsyncScheduler)
    plain = make_scheduler(is_async=False)
    assert isinstance(plain, Scheduler) and not isinstance(plain, AsyncScheduler)
    name = f"{ServegymScheduler.__module__}.{ServegymScheduler.__qualname__}"
    assert isinstance(make_scheduler(cls=name), Scheduler)


def test_this_version_has_what_is_needed():
    vllm_versions.check_version(vllm.__version__)
    for name, parameters in vllm_versions.SIGNATURES.items():
        assert vllm_versions.parameters_of(name) == parameters, name
    scheduler, request = make_scheduler(), make_request(1, 5, 5)
    vllm_versions.check_fields(scheduler)
    for field in vllm_versions.REQUEST_FIELDS:
        assert hasattr(request, field), field


def test_other_versions_are_refused_unless_allowed(monkeypatch):
    monkeypatch.delenv(vllm_versions.OVERRIDE, raising=False)
    with pytest.raises(InputError, match="vllm = 0.34.0: must be 0.32 or 0.33"):
        vllm_versions.check_version("0.34.0")
    monkeypatch.setenv(vllm_versions.OVERRIDE, "1")
    vllm_versions.check_version("0.34.0")
    monkeypatch.setitem(vllm_versions.SIGNATURES, f"{vllm_versions.SCHEDULER}.schedule", ("self", "how"))
    with pytest.raises(
        InputError, match=r"schedule takes \(self, throttle_prefills\); must take \(self, how\)"
    ):
        vllm_versions.check_version("0.34.0")
    monkeypatch.setitem(vllm_versions.SIGNATURES, f"{vllm_versions.SCHEDULER}.plan", ("self",))
    monkeypatch.delitem(vllm_versions.SIGNATURES, f"{vllm_versions.SCHEDULER}.schedule")
    with pytest.raises(InputError, match="plan is missing"):
        vllm_versions.check_version("0.34.0")


def test_a_scheduler_without_a_field_is_refused(monkeypatch):
    monkeypatch.setattr(vllm_versions, "SCHEDULER_FIELDS", ("kv_cache_manager.no_such_pool",))
    with pytest.raises(InputError, match="has no kv_cache_manager.no_such_pool"):
        make_scheduler()


def test_without_a_configuration_it_is_vllms_own():
    assert make_scheduler().engine is None


@pytest.mark.parametrize("how", ["file", "object", "variable"])
def test_configurations(how, tmp_path, monkeypatch):
    config = {"policy": {"artifact": str(ZOO / "scheduler")}, "deadline_s": None, "shadow": True}
    file = tmp_path / "serving.json"
    file.write_text(json.dumps(config))
    given = {"file": {"config": str(file)}, "object": {"config": config}, "variable": {}}[how]
    if how == "variable":
        monkeypatch.setenv(CONFIG_VARIABLE, str(file))
    scheduler = make_scheduler(additional_config={"servegym": given})
    assert scheduler.engine.shadow and scheduler.engine.policy.name == str(ZOO / "scheduler")
    requests = [make_request(number, 50, 5) for number in range(20)]
    assert run(scheduler, requests) == run(make_scheduler(), [make_request(n, 50, 5) for n in range(20)])
    assert scheduler.engine.plans > 5 and not scheduler.engine.fallbacks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("serving.json", "additional_config.servegym"),
        ({"port": 1}, "servegym.port: must be one of config, load_port, load_host"),
        ({"load_port": "80"}, "servegym.load_port = '80': must be int"),
        ({"load_port": 70_000}, "must be from 0 to 65535"),
        ({"config": {"policy": {}}}, "policy: must have an artifact or a heuristic"),
        ({"config": "/no/such/file.json"}, "/no/such/file.json"),
    ],
)
def test_wrong_configurations_end_the_start(given, message):
    with pytest.raises(InputError, match=message):
        make_scheduler(additional_config={"servegym": given})


def test_the_load_is_told_over_http(free_port):
    port = free_port()
    scheduler = make_scheduler(additional_config={"servegym": {"load_port": port}})
    told = []

    def ask(step):
        if step == 5:
            scheduler.load.look()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/load", timeout=5) as answer:
                told.append(json.load(answer))

    with ExitStack() as silent:  # clients that do not end their question hold nobody up
        for _ in range(20):
            client = silent.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET /load HTTP/1.1\r\n")
        run(scheduler, [make_request(number, 50, 20) for number in range(20)], each_step=ask)
    assert set(told[0]) == {*NAMES, "age_s"}
    assert told[0]["running"] + told[0]["waiting"] == 20 and told[0]["kv_total_blocks"] == 40
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/load", timeout=5) as answer:
        after = json.load(answer)
    idle = {"running", "waiting", "outstanding_tokens", "kv_used_blocks", "age_s", "iteration_left_s"}
    assert {name: after[name] for name in idle} == dict.fromkeys(idle, 0.0)
    assert after["kv_released_per_iteration"] > 0
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
    with pytest.raises(InputError, match=f"/load on 127.0.0.1:{port}: cannot be served"):
        make_scheduler(additional_config={"servegym": {"load_port": port}})


GAUGES = """
import sys
from tests.serving.vllm.stepping import make_request, make_scheduler, run
scheduler = make_scheduler()
run(scheduler, [make_request(number, 50, 20) for number in range(20)],
    each_step=lambda step: step < 10 or sys.exit(scheduler.load.look()), max_steps=20)
"""


def test_the_load_is_in_vllms_metrics(tmp_path):
    """The engine's process writes what another process, as the API server is, then reads."""
    from prometheus_client import generate_latest
    from vllm.v1.metrics.prometheus import get_prometheus_registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        subprocess.run([sys.executable, "-c", GAUGES], cwd=Path(__file__).parents[3], check=True)
        lines = generate_latest(get_prometheus_registry()).decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("servegym:"))
    assert {name.partition("{")[0] for name in values} == {f"servegym:{name}" for name in NAMES}
    assert all('engine="0"' in name for name in values)
    told = {name.partition("{")[0]: float(value) for name, value in values.items()}
    assert told["servegym:running"] + told["servegym:waiting"] == 20
    assert told["servegym:kv_total_blocks"] == 40


def test_iterations_take_what_they_took():
    times = IterationTimes()
    for _ in range(200):
        times.observe(0, 0.01)
        times.observe(500, 0.06)
    assert times.expected_s(0) == pytest.approx(0.01)
    assert times.expected_s(1000) == pytest.approx(0.11)
