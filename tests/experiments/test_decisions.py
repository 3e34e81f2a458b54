"""The loop is closed: what a router did in a serving system is read as data, as a workload, as a teacher."""

import heapq
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servegym.agents.serving.artifact.schema import SETTING_FEATURES
from servegym.agents.serving.contracts import UNKNOWN
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router
from servegym.agents.serving.telemetry.decision_log import DecisionLog
from servegym.envs.routing.logged import load_logged
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.workloads import Workload, read_trace
from servegym.experiments.cli import main
from servegym.experiments.run_directory import load_run_policy
from tests.experiments.commands import SHORT_TRAINING, SMALL_SCENARIO, answer_of, error_of

LOG = "decisions.jsonl"
NAMES = ["gpu-0", "gpu-1"]


class Watched(LeastLoaded):
    """Remembers what it was asked and which replica it said."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[np.ndarray, np.ndarray, int]] = []

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        scores = super().scores(request, replicas, session)
        self.seen.append((request.copy(), replicas.copy(), int(scores.argmax())))
        return scores


class Clock:
    """Says what it was set to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def serve(workload: Workload, scenario: Scenario, policy: LeastLoaded, **more: Any) -> None:
    """Routes a workload by a router that logs to LOG, to replicas that answer at their leisure."""
    clock = Clock()
    setting = dict(zip(SETTING_FEATURES, scenario.setting.tolist(), strict=True))
    log = DecisionLog(LOG, setting=setting, clock=clock)
    router = Router(policy, FleetView(NAMES), observers=[log], clock=clock, deadline_s=None, **more)
    events: list[tuple[float, int, int]] = [
        (at_s, i, -1) for i, at_s in enumerate(workload.arrival_s.tolist())
    ]
    while events:
        clock.now_s, i, tokens = heapq.heappop(events)
        left = int(workload.output_tokens[i]) - tokens
        if tokens < 0:
            sessions = workload.session_id
            session = UNKNOWN if sessions is None else float(sessions[i])
            priority = 0.0 if workload.priority is None else float(workload.priority[i])
            predicted = workload.predicted_output_tokens
            router.route(
                RoutedRequest(
                    f"request-{i}",
                    float(workload.prompt_tokens[i]),
                    0.0 if predicted is None else float(predicted[i]),
                    priority,
                    session,
                )
            )
            heapq.heappush(events, (clock.now_s + 1e-5 * workload.prompt_tokens[i], i, 0))
        elif left:
            router.tokens(f"request-{i}", min(left, 20))
            heapq.heappush(events, (clock.now_s + 0.2, i, tokens + min(left, 20)))
        else:
            router.ended(f"request-{i}")
    log.close()
    assert router.fleet.num_under_way == 0


@pytest.fixture
def logged(folder: Path) -> tuple[Workload, Watched]:
    """A workload with priorities and predictions that has been served in `folder`, and who decided."""
    scenario = load_scenario(
        "generated_8xh100",
        (
            *SMALL_SCENARIO[1:],
            "scenario.workload.clients.priority_shares=[0.5,0.5]",
            "scenario.workload.prediction_error=0.3",
        ),
    )
    workload, policy = scenario.traffic.test_workload(0), Watched()
    serve(workload, scenario, policy)
    return workload, policy


def test_the_workload_is_what_was_sent(logged: tuple[Workload, Watched]) -> None:
    sent, _ = logged
    read = read_trace(LOG, "decisions")
    assert read.num_requests == sent.num_requests > 50
    assert np.array_equal(read.arrival_s, sent.arrival_s - sent.arrival_s[0])
    for column in ("prompt_tokens", "output_tokens", "predicted_output_tokens", "priority"):
        assert np.array_equal(getattr(read, column), getattr(sent, column)), column


def test_a_log_is_simulated_like_any_trace(
    capsys: pytest.CaptureFixture[str], logged: tuple[Workload, Watched]
) -> None:
    sent, _ = logged
    of_log = (f"scenario.workload.trace={LOG}", "scenario.workload.format=decisions")
    answer = answer_of(
        capsys,
        "simulate",
        *SMALL_SCENARIO,
        *of_log,
        "scenario.workload.test_s=1",
        "scenario.workload.keep=1",
    )
    tested = np.count_nonzero(sent.arrival_s >= sent.arrival_s[-1] - 1)
    assert answer["workload_source"] == f"trace {LOG}"
    assert answer["metrics"]["num_requests"] == pytest.approx(tested, abs=1)


def test_the_arrays_are_what_the_policy_saw_and_did(
    capsys: pytest.CaptureFixture[str], logged: tuple[Workload, Watched]
) -> None:
    _, policy = logged
    answer = answer_of(capsys, "decisions", f"log={LOG}", "out=a/decisions.npz")
    assert answer["decisions"] == answer["with_rows"] == len(policy.seen)
    assert (answer["failed"], answer["unfinished"], answer["refused"], answer["shadow"]) == (0, 0, 0, None)
    observations, actions = load_logged("a/decisions.npz", slots=4)
    for i, (request, replicas, action) in enumerate(policy.seen):
        assert np.array_equal(observations["request"][i], request)
        assert np.array_equal(observations["replicas"][i, :2], replicas)
        assert not observations["replicas"][i, 2:].any()
        assert actions[i] == action
    scenario = load_scenario("generated_8xh100", SMALL_SCENARIO[1:])
    assert np.array_equal(observations["setting"], np.tile(scenario.setting, (len(actions), 1)))
    arrays = np.load("a/decisions.npz", allow_pickle=False)
    ttft_s, latency_s, tokens = (arrays[name] for name in ("ttft_s", "latency_s", "output_tokens"))
    np.testing.assert_allclose(ttft_s, 1e-5 * observations["request"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(latency_s - ttft_s, 0.2 * np.ceil(tokens / 20), rtol=1e-6)
    assert arrays["ok"].all() and not arrays["fell_back"].any() and (arrays["shadow_actions"] == -1).all()
    policies = answer["policies"]["least_loaded"]
    assert policies["served"] == len(actions)
    assert policies["ttft_s"]["mean"] == pytest.approx(ttft_s.mean())
    assert main(["decisions", f"log={LOG}", "out=b.npz"]) == 0
    assert f"{len(actions):,} decisions to learn from: b.npz" in capsys.readouterr().out


def test_a_shadow_is_compared_with_what_was_done(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    class First:
        name = "first"

        def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
            if request[0] % 2:
                raise RuntimeError
            return -np.arange(len(replicas), dtype=np.float32)

    scenario = load_scenario("generated_8xh100", SMALL_SCENARIO[1:])
    workload = scenario.traffic.test_workload(0)
    serve(workload, scenario, First(), shadow=True)  # type: ignore[arg-type]
    answer = answer_of(capsys, "decisions", f"log={LOG}", "out=d.npz")
    even = workload.prompt_tokens % 2 == 0
    arrays = np.load("d.npz", allow_pickle=False)
    assert answer["fallbacks"] == {"raised": np.count_nonzero(~even)}
    assert answer["shadow"]["decisions"] == np.count_nonzero(even)
    assert answer["shadow"]["agreement"] == pytest.approx(np.mean(arrays["actions"][even] == 0))
    assert 0.2 < answer["shadow"]["agreement"] < 0.8
    assert np.array_equal(arrays["shadow_actions"], np.where(even, 0, -1))
    assert main(["decisions", f"log={LOG}"]) == 0
    assert "In the shadow" in capsys.readouterr().out


def test_a_router_learns_from_a_log_first(
    capsys: pytest.CaptureFixture[str], logged: tuple[Workload, Watched]
) -> None:
    answer_of(capsys, "decisions", f"log={LOG}", "out=d.npz")
    short = (*SMALL_SCENARIO, "agent=ppo_gnn", *SHORT_TRAINING, "agent.learning_rate=3e-3", "total_steps=64")
    taught = ("agent.imitate_log=d.npz", "agent.imitate_steps=4000")
    answer_of(capsys, "train", *short, *taught, "run_dir=taught")
    observations, actions = load_logged("d.npz", slots=2)
    policy, _ = load_run_policy(Path("taught"))
    assert max(np.mean(actions == 0), np.mean(actions == 1)) < 0.65
    assert np.mean(policy.act(observations) == actions) > 0.8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("decisions", "log=nowhere"), "nowhere: cannot be read"),
        (("decisions", "log=empty"), "empty: holds no decision"),
        (("decisions", "log=plain", "out=d.npz"), "header says no overhead_s of the setting"),
        (("decisions", "log=bare", "out=d.npz"), "no decision has its rows"),
        (
            (
                "train",
                *SMALL_SCENARIO,
                "agent=ppo_gnn",
                *SHORT_TRAINING,
                "agent.imitate_log=empty",
                "run_dir=run",
            ),
            "agent.imitate_steps = 0: must be above 0 with imitate_log",
        ),
        (
            (
                "train",
                *SMALL_SCENARIO,
                "agent=ppo_gnn",
                *SHORT_TRAINING,
                "agent.imitate_log=empty",
                "agent.imitate_steps=64",
            ),
            "empty: must be arrays that servegym decisions has written",
        ),
    ],
)
def test_what_cannot_be_read_or_learned_from_is_said(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...], message: str
) -> None:
    Path("empty").write_text("")
    settings: list[tuple[str, dict[str, float], int]] = [
        ("plain", {}, 1),
        ("bare", dict.fromkeys(SETTING_FEATURES, 1.0), 0),
    ]
    for name, setting, rows_every in settings:
        log = DecisionLog(name, setting=setting, rows_every=rows_every)
        Router(LeastLoaded(), FleetView(NAMES), observers=[log]).route(RoutedRequest("0", 1.0))
        log.close()
    assert message in error_of(capsys, *words)


def test_lengths_that_the_router_did_not_see_are_counted_and_not_made_up(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    log = DecisionLog(LOG, setting=dict.fromkeys(SETTING_FEATURES, 1.0))
    router = Router(LeastLoaded(), FleetView(NAMES), observers=[log])
    for name in "abc":
        router.route(RoutedRequest(name, 1.0))
        router.began(name)
        router.ended(name, ok=name != "c")
    log.close()
    answer = answer_of(capsys, "decisions", f"log={LOG}", "out=d.npz")
    assert (answer["unknown_lengths"], answer["failed"]) == (2, 1)
    policy = answer["policies"]["least_loaded"]
    assert policy["served"] == 2 and policy["ttft_s"]["mean"] is None and policy["latency_s"]["mean"] > 0
    arrays = np.load("d.npz", allow_pickle=False)
    assert (arrays["output_tokens"] == -1).all() and np.isnan(arrays["ttft_s"]).all()
    of_log = (f"scenario.workload.trace={LOG}", "scenario.workload.format=decisions")
    assert "--observed tokens" in error_of(capsys, "simulate", *SMALL_SCENARIO, *of_log)
    assert main(["decisions", f"log={LOG}"]) == 0
    assert "2 served, but how many tokens came is not known" in capsys.readouterr().out


def test_the_json_says_nothing_of_times_where_nobody_was_served(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    log = DecisionLog(LOG)
    Router(LeastLoaded(), FleetView(NAMES), observers=[log]).route(RoutedRequest("0", 1.0))
    log.close()
    answer = answer_of(capsys, "decisions", f"log={LOG}")
    assert answer["policies"]["least_loaded"]["ttft_s"] == {"mean": None, "p50": None, "p99": None}
    assert answer["unfinished"] == 1 and json.dumps(answer)
