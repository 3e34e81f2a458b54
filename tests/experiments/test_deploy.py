"""`servegym deploy` writes what adapters read."""

import json
import shutil

import pytest

from servegym.agents.serving.config import engine_from_config, load_config, router_from_config
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.zoo import ZOO
from servegym.costmodels.errors import InputError
from servegym.envs.scenario import load_scenario
from servegym.experiments.cli import main


def deploy(capsys, *words):
    code = main(["deploy", "--json", *words])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 else err


def test_the_policy_is_told_what_the_scenario_is(tmp_path, capsys):
    path = tmp_path / "serving.json"
    scenario_of_late = ("scenario=generated_8xh100", "scenario.fleet.dispatch_latency_s=0.005")
    code, answer = deploy(capsys, *scenario_of_late, "policy=zoo:router", f"out={path}", "share=0.1")
    assert code == 0 and (answer["policy"], answer["level"]) == ("zoo:router", "router")
    config, scenario = load_config(path), load_scenario("generated_8xh100")
    assert list(config.setting.values()) == scenario.setting.tolist()
    assert config.fleet.kv_blocks == scenario.engine.num_kv_blocks and config.share == 0.1
    assert config.fleet.dispatch_latency_s == 0.005
    assert router_from_config(config, ["a", "b"]).route(RoutedRequest("1", 10.0)).replica in ("a", "b")


@pytest.mark.parametrize("router", ["marginal_latency", "jsq", "sal", "predicted_ttft", "power_of_two"])
def test_published_routers_serve_with_the_parameters_of_the_scenario(router, tmp_path, capsys):
    path = tmp_path / "serving.json"
    code, _ = deploy(capsys, "scenario=generated_8xh100", f"router={router}", f"out={path}")
    assert code == 0
    serving = router_from_config(load_config(path), ["a", "b"])
    serving.report(
        "a", {"running": 90, "waiting": 50, "queued_prefill_tokens": 60_000, "kv_used_blocks": 20_000}
    )
    assert serving.route(RoutedRequest("1", 10.0)).replica == "b"


def test_an_exported_scheduler_serves_an_engine(tmp_path, capsys):
    path = tmp_path / "serving.json"
    code, answer = deploy(capsys, "scenario=generated_1xh100", "policy=zoo:scheduler", f"out={path}")
    assert code == 0 and answer["level"] == "engine"
    assert engine_from_config(load_config(path)).policy.name == "zoo:scheduler"


def test_published_schedulers_serve_an_engine(tmp_path, capsys):
    path = tmp_path / "serving.json"
    code, answer = deploy(capsys, "scenario=generated_1xh100", "scheduler=larry", f"out={path}")
    assert code == 0 and answer["level"] == "engine"
    assert engine_from_config(load_config(path)).policy.name == "larry"


def test_a_signature_is_demanded_now_and_where_the_policy_serves(tmp_path, capsys):
    folder, key, path = (
        shutil.copytree(ZOO / "router", tmp_path / "policy"),
        tmp_path / "key",
        tmp_path / "out",
    )
    key.write_bytes(b"k" * 32)
    words = ["scenario=generated_8xh100", f"policy={folder}", f"key={key}", f"out={path}"]
    code, err = deploy(capsys, *words)
    assert code != 0 and "policy.sig: missing" in err and not path.exists()
    assert main(["policy", "sign", f"policy={folder}", f"key={key}"]) == 0
    capsys.readouterr()
    code, _ = deploy(capsys, *words)
    assert code == 0 and load_config(path).policy.key == str(key)
    description = folder / "policy.json"
    description.write_text(description.read_text() + " ")
    with pytest.raises(InputError, match="not of this key"):
        router_from_config(load_config(path), ["a", "b"])


@pytest.mark.parametrize(
    "words, said",
    [
        (["policy=zoo:router", "router=jsq"], "must be one of them, not policy and router"),
        ([], "must be one of them, not none"),
        (["policy=zoo:scheduler", "level=router"], "decides as scheduler; must be router or two_level"),
        (["router=splitwise"], "router splitwise: needs roles, which no serving system tells"),
        (["policy=zoo:router", "level=both"], "level = both: must be router or engine, or null"),
        (["policy=zoo:router", "share=2"], "share = 2.0: must be from 0 to 1"),
        (["policy=zoo:router", "key=none"], "key = none: cannot be read"),
        (["router=jsq", "key=none"], "policy.key = none: a heuristic has no signature"),
    ],
)
def test_what_cannot_serve_is_refused_before_anything_is_written(words, said, tmp_path, capsys):
    path = tmp_path / "serving.json"
    code, err = deploy(capsys, "scenario=generated_8xh100", f"out={path}", *words)
    assert code != 0 and said in err and not path.exists()
