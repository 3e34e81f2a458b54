"""What is said of a policy whose rule is known: it looks at what it reads, and agrees with itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.compose import compose_scenario
from servegym.envs.sim.llm.view import AVAILABLE, REPLICA_COLUMNS, RUNNING, WAITING
from servegym.experiments.cli import main
from servegym.experiments.explanation.agreement import agreements, same_choice
from servegym.experiments.explanation.decisions import Decisions, routing_decisions
from servegym.experiments.explanation.picture import LENGTH_S, MARKS, busiest_decisions, busiest_minute
from servegym.experiments.explanation.sensitivity import margin_gradients, sensitivities
from tests.experiments.commands import FEW_REQUESTS, SMALL_SCENARIO, SMALL_TRAINING, answer_of, error_of

BUSY = ("scenario.fleet.replicas=3", "scenario.workload.rate_rps=60")


class ShortestQueue:
    """Join the shortest queue as scores."""

    def scores(self, observation: Any, masks: Any = None) -> Any:
        replicas = observation["replicas"]
        queue = replicas[..., RUNNING] + replicas[..., WAITING]
        return np.where(replicas[..., AVAILABLE] > 0, -queue, ILLEGAL_LOGIT).astype(np.float32)


class ShortestQueueNetwork(ActionNetwork):
    def forward(
        self, request: torch.Tensor, replicas: torch.Tensor, **others: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        queue = replicas[..., RUNNING] + 2 * replicas[..., WAITING]
        return -queue, queue.sum(dim=1)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario(compose_scenario("generated_8xh100", (*FEW_REQUESTS, *BUSY)))


@pytest.fixture(scope="module")
def decisions(scenario: Scenario) -> Decisions:
    workloads = [scenario.traffic.test_workload(seed) for seed in (0, 1)]
    return routing_decisions(ShortestQueue(), scenario, workloads)


def test_decisions_are_those_of_the_policy(scenario: Scenario, decisions: Decisions) -> None:
    workloads = [scenario.traffic.test_workload(seed) for seed in (0, 1)]
    assert len(decisions.actions) == sum(each.num_requests for each in workloads)
    assert (np.diff(decisions.time_s[decisions.workload == 1]) >= 0).all()
    due = [each.arrival_s for each in workloads]
    np.testing.assert_allclose(decisions.time_s, np.concatenate(due))
    assert np.array_equal(decisions.actions, ShortestQueue().scores(decisions.observation).argmax(axis=1))
    assert decisions.choices.all() and decisions.legal.shape == (len(decisions.actions), 3)


def test_jsq_agrees_with_jsq(scenario: Scenario, decisions: Decisions) -> None:
    found, left_out = agreements(decisions, scenario, seed=0)
    by_name = {each.rule: each for each in found}
    assert by_name["jsq"].share == by_name["jsq"].above_chance == 1.0
    assert by_name["random"].share == pytest.approx(by_name["random"].by_chance, abs=0.12)
    assert all(each.share <= 1.0 for each in found)
    assert "needs an engine with a prefix cache" in left_out["mooncake"]


def test_a_replica_that_looks_the_same_is_the_same_choice() -> None:
    replicas = np.zeros((2, 3, len(REPLICA_COLUMNS)), np.float32)
    replicas[..., AVAILABLE] = 1
    replicas[:, 2, RUNNING] = 1
    two = Decisions(
        np.zeros(2, np.int64),
        np.zeros(2),
        {"replicas": replicas},
        np.ones((2, 3), np.bool_),
        np.array([0, 2]),
    )
    assert same_choice(two, np.array([1, 1])).tolist() == [True, False]


def test_it_looks_at_what_it_reads_and_at_nothing_else(decisions: Decisions) -> None:
    rng = np.random.default_rng(0)
    found = sensitivities(ShortestQueue(), decisions, {"replicas": REPLICA_COLUMNS}, None, rng)
    read = {"running", "waiting"}
    assert {each.feature for each in found[:2]} == read
    assert found[0].changed > 0.2 and found[0].gradient is None
    assert {(each.changed, each.margin_lost) for each in found if each.feature not in read} == {(0.0, 0.0)}
    assert not next(each for each in found if each.feature == "kv_total_blocks").varies


def test_gradients_are_those_of_the_lead(decisions: Decisions) -> None:
    gradients = margin_gradients(ShortestQueueNetwork(), decisions)
    due = np.zeros(len(REPLICA_COLUMNS))
    due[RUNNING], due[WAITING] = 2.0, 4.0  # the lead falls with the queue chosen and rises with the next best
    np.testing.assert_allclose(gradients["replicas"], due)
    assert not gradients["request"].any()


def made_up(num_decisions: int, gap_s: float, load: np.ndarray) -> Decisions:
    replicas = np.zeros((num_decisions, 1, len(REPLICA_COLUMNS)), np.float32)
    replicas[:, 0, RUNNING] = load
    return Decisions(
        np.zeros(num_decisions, np.int64),
        gap_s * np.arange(num_decisions),
        {"replicas": replicas},
        np.ones((num_decisions, 1), np.bool_),
        np.zeros(num_decisions, np.int64),
    )


def test_the_busiest_minute_has_the_most_requests() -> None:
    load = np.zeros(1000)
    load[600:660] = 5.0
    minute = busiest_minute(made_up(1000, 1.0, load))
    assert (minute[0], len(minute)) == (600, LENGTH_S)
    assert len(busiest_minute(made_up(10, 1.0, load[:10]))) == 10
    few = busiest_decisions(made_up(1000, 0.01, load))
    assert len(few) == MARKS and {600, 659} <= set(few)


@pytest.fixture
def run_dir(folder: Path) -> Path:
    assert main(("train", *SMALL_TRAINING, "run_dir=run")) == 0
    return folder / "run"


@pytest.mark.compiled
def test_explain_writes_a_page(capsys: pytest.CaptureFixture[str], run_dir: Path) -> None:
    answer = answer_of(capsys, "explain", "policy=run", *SMALL_SCENARIO, "out=why")
    written = json.loads(Path("why/explanation.json").read_text())
    assert written == {key: value for key, value in answer.items() if key != "out"}
    assert {path.name for path in Path("why").iterdir()} == {
        "explanation.json",
        "explanation.md",
        "decisions.png",
        "sensitivity.csv",
        "agreement.csv",
    }
    page = Path("why/explanation.md").read_text()
    assert "| jsq |" in page and "replicas.running" in page and "(decisions.png)" in page
    assert Path("why/decisions.png").read_bytes().startswith(b"\x89PNG")
    assert all(each["gradient"] is not None for each in answer["sensitivities"])
    assert main(["export", "run_dir=run", "out=exported"]) == 0
    exported = answer_of(capsys, "explain", "policy=exported", *SMALL_SCENARIO, "out=why")
    assert exported["agreements"] == answer["agreements"]
    assert all(each["gradient"] is None for each in exported["sensitivities"])


def test_only_trained_policies_are_explained(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    said = error_of(capsys, "explain", "policy=jsq", *SMALL_SCENARIO)
    assert said == "policy = jsq: must be trained: a folder of a run, of an export, or zoo:NAME"
    assert "must be one of" in error_of(capsys, "explain", "policy=zoo:nobody", *SMALL_SCENARIO)
