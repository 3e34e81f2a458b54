"""The one JSON object that configures a router or an engine."""

import json
import shutil
from functools import partial

import numpy as np
import pytest

from servegym.agents.serving.artifact.schema import SETTING_FEATURES
from servegym.agents.serving.artifact.signature import sign
from servegym.agents.serving.config import engine_from_config, load_config, router_from_config, serving_config
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.telemetry.decision_log import DecisionLog
from servegym.agents.serving.telemetry.metrics import RouterMetrics
from servegym.agents.zoo import ZOO
from servegym.costmodels.errors import InputError
from servegym.envs.workloads.decision_log import read_decision_log

SETTING = dict(zip(SETTING_FEATURES, [6e-3, 1.7e-5, 9e-6, 5.6e-8, 2048, 16, 200, 1, 0], strict=True))
LEARNED = {"policy": {"artifact": "zoo:router"}, "setting": SETTING}


@pytest.mark.parametrize(
    "policy", [{"heuristic": "least_loaded"}, {"heuristic": "jsq"}, {"artifact": "zoo:router"}]
)
def test_a_router_goes_where_there_is_least_to_do(policy):
    router = router_from_config({**LEARNED, "policy": policy}, ["a", "b", "c"])
    load = {"running": 40, "waiting": 30, "queued_prefill_tokens": 9000, "decode_context_tokens": 30_000}
    for name in "ac":
        router.report(name, load)
    decision = router.route(RoutedRequest("1", 100.0))
    assert decision.replica == "b" and decision.fallback == ""
    assert decision.ranked[0] == "b" and sorted(decision.ranked) == ["a", "b", "c"]


def test_a_published_router_is_given_its_clock():
    clock = [6e-3, 1.7e-5, 9e-6, 5.6e-8]
    policy = {"heuristic": "marginal_latency", "parameters": {"clock": clock, "token_budget": 512}}
    router = router_from_config({"policy": policy}, ["a", "b"])
    assert router.route(RoutedRequest("1", 100.0)).policy == "marginal_latency"


def test_engines_take_rankings_and_exported_schedulers():
    assert engine_from_config({"policy": {"heuristic": "larry"}}).policy.name == "larry"
    assert engine_from_config({"policy": {"artifact": "zoo:two_level"}}).policy.name == "zoo:two_level"


@pytest.mark.parametrize(
    "setting", [{"share": 0.5}, {"needs_reports": True}, {"decision_log": "log.jsonl"}, {"metrics": True}]
)
def test_an_engine_refuses_what_it_would_not_heed(setting):
    (name,) = setting
    with pytest.raises(InputError, match=f"{name} = .*: an engine knows none"):
        engine_from_config({"policy": {"heuristic": "larry"}, **setting})


@pytest.mark.parametrize(
    "change, said",
    [
        ({"policy": None}, "policy = None: must be dict"),
        ({"policy": {}}, "policy: must have an artifact or a heuristic, one of them"),
        ({"policy": {"artifact": "zoo:router", "heuristic": "jsq"}}, "one of them"),
        ({"policy": {"artifact": 3}}, "policy.artifact = 3: must be str or null"),
        ({"policy": {"artifact": "zoo:router", "key": 3}}, "policy.key = 3: must be str or null"),
        ({"policy": {"heuristic": "jsq", "key": "k"}}, "policy.key = k: a heuristic has no signature"),
        ({"shadow": 1}, "shadow = 1: must be bool"),
        ({"share": 1.5}, "share = 1.5: must be from 0 to 1"),
        ({"share": True}, "share = True: must be int or float"),
        ({"deadline_s": 0}, "deadline_s = 0: must be > 0, or null"),
        ({"dead_line": 0}, "dead_line: must be one of policy, setting"),
        ({"fleet": {"block_size": -1}}, "fleet.block_size = -1: must be > 0"),
        ({"fleet": {"dispatch_latency_s": -1}}, "fleet.dispatch_latency_s = -1: must be >= 0"),
        ({"setting": {"overhead_s": 1}}, "setting: must have s_per_prefill_token"),
        ({"setting": {**SETTING, "speed": 1}}, "setting.speed: must be one of overhead_s"),
        ({"setting": {**SETTING, "overhead_s": float("nan")}}, "must be finite numbers >= 0"),
        ({"setting": {**SETTING, "overhead_s": "x"}}, "setting.overhead_s = 'x': must be a number"),
    ],
)
def test_what_is_wrong_is_named(change, said):
    with pytest.raises(InputError, match=said):
        serving_config({**LEARNED, **change})


def test_a_file_is_named_where_it_is_wrong(tmp_path):
    path = tmp_path / "serving.json"
    for text, said in (("{", "Expecting"), ("[]", "must be an object"), ("[" * 100_000, "recursion")):
        path.write_text(text)
        with pytest.raises(InputError, match=f"serving.json: .*{said}"):
            load_config(path)
    with pytest.raises(InputError, match=r"none.json: .*No such file"):
        load_config(tmp_path / "none.json")
    path.write_text(json.dumps(LEARNED))
    assert load_config(path) == serving_config(LEARNED)


def test_the_wrong_kind_of_policy_is_refused():
    with pytest.raises(InputError, match="decides as scheduler; must be router or two_level"):
        router_from_config({**LEARNED, "policy": {"artifact": "zoo:scheduler"}}, ["a"])
    with pytest.raises(InputError, match="router splitwise: needs roles, which no serving system tells"):
        router_from_config({"policy": {"heuristic": "splitwise"}}, ["a"])


@pytest.mark.parametrize(
    "name, loads",
    [("router", partial(router_from_config, replicas=["a"])), ("scheduler", engine_from_config)],
)
def test_with_a_key_a_policy_without_its_signature_does_not_serve(name, loads, tmp_path):
    folder, key = shutil.copytree(ZOO / name, tmp_path / "policy"), tmp_path / "key"
    key.write_bytes(b"k" * 32)
    config = {"policy": {"artifact": str(folder), "key": str(key)}, "setting": SETTING}
    with pytest.raises(InputError, match=r"policy\.sig: missing"):
        loads(config)
    (folder / "policy.sig").write_text(sign((folder / "policy.json").read_bytes(), key.read_bytes()))
    assert loads(config).policy.name == str(folder)
    for wrong, said in ((b"l" * 32, "not of this key"), (b"short", "5 bytes; must be 32 to 4096")):
        key.write_bytes(wrong)
        with pytest.raises(InputError, match=said):
            loads(config)
    key.unlink()
    with pytest.raises(InputError, match="key = .*: cannot be read"):
        loads(config)


def test_logs_of_one_name_hinder_no_router(tmp_path):
    """Each handle of Ray Serve has a router of its own, of one configuration."""
    config = {**LEARNED, "decision_log": str(tmp_path / "decisions.jsonl")}
    routers = [router_from_config(config, ["a", "b"]) for _ in range(4)]
    for router in routers:
        router.observers[0].close()


def test_both_levels_route_as_the_gym_would():
    """The two-level policy is given zeros for the level that is not asked."""
    config = {**LEARNED, "policy": {"artifact": "zoo:two_level"}, "deadline_s": None}
    decision = router_from_config(config, ["a", "b"]).route(RoutedRequest("1", 100.0))
    assert np.isfinite(decision.scores).all() and decision.fallback == ""


def test_what_is_logged_and_counted_is_configured(tmp_path):
    """Before workers that are slowed down, the log too counts their seconds."""
    path = tmp_path / "decisions.jsonl"
    watched = {"decision_log": str(path), "metrics": True, "time_scale": 1e6, "deadline_s": None}
    router = router_from_config({**LEARNED, **watched}, ["a", "b"])
    for i in range(2):
        router.route(RoutedRequest(str(i), 100.0))
    metrics, log = router.observers
    assert isinstance(metrics, RouterMetrics) and isinstance(log, DecisionLog)
    log.close()
    assert b"inference_objective_request_total" in metrics.exposition()
    read = read_decision_log(path)
    assert read.setting == LEARNED["setting"] and len(read.decisions) == 2
    assert read.decisions[1].at_s - read.decisions[0].at_s < 1e-3
