"""`servegym deploy` writes what adapters read."""

import json

import pytest

from servegym.agents.serving.config import engine_from_config, load_config, router_from_config
from servegym.agents.serving.routing.requests import RoutedRequest
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


@pytest.mark.parametrize(
    "words, said",
    [
        (["policy=zoo:router", "router=jsq"], "must be one of them, not policy and router"),
        ([], "must be one of them, not none"),
        (["policy=zoo:scheduler", "level=router"], "decides as scheduler; must be router or two_level"),
        (["router=splitwise"], "router splitwise: needs roles, which no serving system tells"),
        (["policy=zoo:router", "level=both"], "level = both: must be router or engine, or null"),
        (["policy=zoo:router", "share=2"], "share = 2.0: must be from 0 to 1"),
    ],
)
def test_what_cannot_serve_is_refused_before_anything_is_written(words, said, tmp_path, capsys):
    path = tmp_path / "serving.json"
    code, err = deploy(capsys, "scenario=generated_8xh100", f"out={path}", *words)
    assert code != 0 and said in err and not path.exists()
