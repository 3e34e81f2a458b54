"""`servegym live`, as far as it goes without the environments of real routers."""

import json
import sys

import pytest

from servegym.experiments.cli import main
from servegym.experiments.live import _compare


def _line(router, proxy, seen, foretold):
    metrics = ("mean_ttft_s", "p99_ttft_s", "mean_latency_s")
    return {
        "router": router,
        "proxy": proxy,
        "seen": dict.fromkeys(metrics, seen),
        "foretold": foretold and dict.fromkeys(metrics, foretold),
    }


def test_advantages_are_over_the_baseline_of_the_same_proxy():
    lines = [
        _line("envoy:round_robin", "envoy", 2.0, 4.0),
        _line("ray:round_robin", "ray", 8.0, 8.0),
        _line("picker:zoo:router", "envoy", 1.0, 3.0),
        _line("ray:zoo:router", "ray", 2.0, 4.0),
        _line("smg:cache_aware", "smg", 3.0, None),
    ]
    _compare(lines, ["envoy:round_robin", "ray:round_robin"])
    assert [line["advantage"]["p99_ttft_s"] for line in lines] == [0.0, 0.0, 0.5, 0.75, -0.5]
    assert [line["baseline"] for line in lines[2:]] == [
        "envoy:round_robin",
        "ray:round_robin",
        "envoy:round_robin",
    ]
    assert lines[2]["advantage_foretold"]["mean_ttft_s"] == 0.25
    assert lines[3]["advantage_foretold"]["mean_ttft_s"] == 0.5
    assert lines[4]["advantage_foretold"] is None


@pytest.mark.parametrize(
    "words, said",
    [
        (["requests=0"], "requests = 0: must be at least 1"),
        (["time_scale=0"], "time_scale = 0.0: must be positive and finite"),
        (["routers=[nginx:best]"], "nginx:best: must be FAMILY:POLICY"),
        (["seeds=[]"], "seeds"),
        (["baselines=[]"], "baselines = []: must have one at least"),
        ([], "python.envoy: must be given for envoy:round_robin"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_started(words, said, tmp_path, capsys):
    out = tmp_path / "live"
    assert main(["live", "scenario=generated_8xh100", f"out={out}", *words]) != 0
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_workers_are_started_with_the_scenario_of_the_command(tmp_path, capsys, monkeypatch):
    """Everything but a router: one that ends at once is named, and no process is left."""
    monkeypatch.setattr("servegym.experiments.live_comparison.fronts.start_router", _no_router)
    words = ["scenario=generated_8xh100", "scenario.fleet.replicas=2", f"python.envoy={sys.executable}"]
    out = tmp_path / "live"
    assert main(["live", *words, f"out={out}", "requests=5"]) != 0
    assert "2 workers" in capsys.readouterr().err
    answer = json.loads((out / "envoy-round_robin-seed0" / "workers.log").read_text().splitlines()[0])
    assert answer["num_replicas"] == 2


def _no_router(family, policy, worker_urls, python, folder):
    from servegym.costmodels.errors import InputError

    raise InputError(f"{len(worker_urls)} workers")
