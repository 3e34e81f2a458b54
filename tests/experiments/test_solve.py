"""`servegym solve`: the optimal batching of one server beside simple policies."""

import json
from pathlib import Path

import numpy as np
import pytest

from servegym.agents.smdp import control_limit, evaluate, solve, static
from servegym.envs.dynamic_batching.scenario import load_dynamic_batching
from servegym.experiments.cli import main
from tests.experiments.commands import answer_of, error_of

SMALL = ("scenario=googlenet_p4", "scenario.max_batch=6", "scenario.rate_rps=1000")


def test_answer_is_that_of_the_solver(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """The best static batch and the best limit are the best of all."""
    answer = answer_of(capsys, "solve", *SMALL, "episodes=4", "requests=2000")
    assert list(folder.iterdir()) == []
    scenario = load_dynamic_batching("googlenet_p4", SMALL[1:])
    found = solve(scenario)
    assert answer["cost"] == found.cost and answer["sizes"] == found.sizes.tolist()
    assert answer["largest_rate_rps"] == pytest.approx(6 / scenario.latency_s[-1])
    policies = answer["policies"]
    assert set(policies) == {"optimal", "work_conserving", "static", "control_limit"}
    for name, make in (("static", static), ("control_limit", control_limit)):
        costs = [evaluate(scenario, make(scenario, size)).cost for size in range(1, 7)]
        assert policies[name]["exact"]["cost"] == pytest.approx(min(costs))
        assert policies[name]["parameter"] == 1 + int(np.argmin(costs))
    for policy in policies.values():
        assert policy["exact"]["cost"] >= answer["cost"] * (1 - 1e-9)
        played = policy["simulated"]
        assert played["num_requests"] == 8000
        assert abs(played["cost"] - policy["exact"]["cost"]) < 5 * played["cost_error"]


def test_out_has_the_answer(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "solve", *SMALL, "episodes=0", "out=deep/answer.json")
    assert json.loads((folder / "deep/answer.json").read_text()) == answer
    assert "simulated" not in answer["policies"]["optimal"]


def test_table(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["solve", *SMALL, "episodes=2", "requests=500"]) == 0
    shown = capsys.readouterr().out
    assert "work conserving" in shown and "control limit" in shown and "±" in shown
    assert "Optimal, by requests waiting: 0-" in shown


def test_a_load_that_no_static_batch_can_serve_with_room_to_spare(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    """Then none is compared."""
    answer = answer_of(capsys, "solve", *SMALL[:2], "scenario.rate_rps=2070", "episodes=0")
    assert "static" not in answer["policies"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("scenario.rate_rps=9999",), "scenario.rate_rps = 9999: must be below 2081.17"),
        (("scenario.response_weight=0",), "scenario.response_weight = 0: must be above 0"),
        (("scenario.power_weight=-1",), "scenario.power_weight = -1.0: must be at least 0"),
        (("scenario.max_batch=0",), "scenario.max_batch = 0: must be at least 1"),
        (("scenario.alpha_s=-1",), "alpha_s is -1.0, must be at least 0"),
        (("max_queue=3",), "max_queue = 3: must be at least max_batch, 6"),
        (("truncation=2",), "truncation = 2.0: must be between 0 and 1"),
        (("episodes=1",), "episodes = 1: must be 0, or at least 2"),
        (("requests=0",), "requests = 0: must be at least 1"),
        (("seed=-1",), "seed = -1: must be at least 0"),
        (("out=.",), "must be a file to make"),
        (
            ("scenario=generated_1xh100",),
            "scenario: is of LLM fleets; this command takes those of one batching",
        ),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...], message: str
) -> None:
    kept = SMALL if not words[0].startswith("scenario=") else ()
    assert message in error_of(capsys, "solve", *kept, "episodes=0", *words)
