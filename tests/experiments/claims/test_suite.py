"""The suite of claims: verdicts by the stated rule, files as a whole, errors before any work."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.scenario import load_scenario
from servegym.experiments import evaluate as command
from servegym.experiments.claims.claim import Claim, Figure, Paper, at_most, change, check, ratio, value
from servegym.experiments.claims.suite import FILES, run_claims
from servegym.experiments.evaluation.statistics import Estimate
from tests.experiments.commands import answer_of, error_of


def queue_time_s(load: float, seed: int) -> float:
    """Mean time in system of a made-up M/M/1 queue whose server serves one request a second."""
    rng = np.random.default_rng(seed)
    gaps_s, services_s = rng.exponential(1 / load, 20_000), rng.exponential(1.0, 20_000)
    wait_s, total_s = 0.0, 0.0
    for gap_s, service_s in zip(gaps_s, services_s, strict=True):
        wait_s = max(0.0, wait_s - gap_s)
        total_s += wait_s + service_s
        wait_s += service_s
    return total_s / len(gaps_s)


def scenario_of_its_own() -> Mapping[str, Sequence[float]]:
    """As claims do that take a scenario, though the command is one of Hydra's that composed another."""
    return {"replicas": [load_scenario("generated_8xh100").num_replicas]}


def measure() -> Mapping[str, Sequence[float]]:
    half, most = (np.array([queue_time_s(load, seed) for seed in range(4)]) for load in (0.5, 0.75))
    return {"time in system at 0.75 over that at 0.5": list(most / half)}


FIGURE = "time in system at 0.75 over that at 0.5"
QUEUES = Paper(
    "M/M/1",
    "a textbook",
    [
        Claim("doubles", "Twice the time, by the closed form.", "made up", [ratio(FIGURE, 2.0)], measure),
        Claim(
            "shrinks",
            "Less time under more load.",
            "made up",
            [ratio(FIGURE, 0.5)],
            measure,
            remark="queues grow",
        ),
        Claim("scenario", "Eight.", "made up", [at_most("replicas", 8.0)], scenario_of_its_own),
    ],
)
PAPERS = {"queues": QUEUES, "others": Paper("other", "a book", [])}


@pytest.mark.parametrize(
    ("figure", "ours", "verdict"),
    [
        (ratio("r", 3.0), (2.4, 1.5, 2.5), "reproduced"),
        (ratio("r", 3.0), (2.3, 1.5, 2.5), "direction only"),
        (ratio("r", 3.0), (4.1, 1.5, 9.0), "direction only"),
        (ratio("r", 3.0), (2.5, 0.9, 3.0), "not reproduced"),
        (ratio("r", 1.3), (1.02, 1.01, 1.03), "direction only"),
        (ratio("r", 3.0, factor=2.0), (4.9, 4.0, 6.0), "reproduced"),
        (ratio("r", 1.5, 14.5), (20.0, 19.0, 21.0), "reproduced"),
        (ratio("r", 1.5, 14.5), (22.0, 19.0, 25.0), "direction only"),
        (ratio("r", 0.5), (0.6, 0.55, 0.65), "reproduced"),
        (ratio("r", 0.5), (0.9, 0.85, 0.95), "direction only"),
        (ratio("r", 0.5), (0.9, 0.8, 1.1), "not reproduced"),
        (change("c", -0.36), (-0.30, -0.4, -0.2), "reproduced"),
        (change("c", -0.36), (-0.10, -0.2, -0.05), "direction only"),
        (change("c", -0.36), (0.36, 0.3, 0.4), "not reproduced"),
        (change("c", -0.33, -0.45), (-0.6, -0.7, -0.5), "reproduced"),
        (at_most("m", 0.03), (0.03, 0.0, 0.1), "reproduced"),
        (at_most("m", 0.03), (0.031, 0.0, 0.1), "not reproduced"),
        (value("v", 100.0, factor=1.03), (103.0, 90.0, 110.0), "reproduced"),
        (value("v", 100.0, factor=1.03), (97.1, 97.0, 97.2), "reproduced"),
        (value("v", 100.0, factor=1.03), (103.1, 90.0, 110.0), "not reproduced"),
        (value("v", 100.0, factor=1.03), (97.0, 90.0, 110.0), "not reproduced"),
        (value("v", 100.0, factor=1.03), (np.nan, np.nan, np.nan), "not reproduced"),
        (ratio("r", 3.0), (np.nan, np.nan, np.nan), "not reproduced"),
        (at_most("m", 0.03), (np.nan, np.nan, np.nan), "not reproduced"),
    ],
)
def test_verdicts(figure: Figure, ours: tuple[float, float, float], verdict: str) -> None:
    assert figure.judge(Estimate(*ours)) == verdict


def test_a_claim_is_as_good_as_its_worst_figure(tmp_path: Path) -> None:
    def both() -> Mapping[str, Sequence[float]]:
        return {"good": [2.0], "bad": [0.5]}

    claim = Claim("both", "", "", [ratio("good", 2.0), ratio("bad", 2.0)], both)
    assert [finding.verdict for finding in check(claim)] == ["reproduced", "not reproduced"]
    answer = run_claims(None, tmp_path / "out", {"one": Paper("", "", [claim])})
    assert answer["papers"]["one"]["claims"]["both"]["verdict"] == "not reproduced"


def test_answer_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PAPERS", PAPERS)
    out = tmp_path / "out"
    words = ("evaluate", "suite=claims", "claims=[queues]", f"out={out}")
    answer = answer_of(capsys, *words)
    claims = answer["papers"]["queues"]["claims"]
    assert {name: found["verdict"] for name, found in claims.items()} == {
        "doubles": "reproduced",
        "shrinks": "not reproduced",
        "scenario": "reproduced",
    }
    assert claims["doubles"]["figures"][0]["ours"] == pytest.approx(2.0, rel=0.2)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    written = json.loads((out / "claims.json").read_text())
    assert {key: written[key] for key in answer} == answer
    with (out / "claims.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] for row in rows] == ["reproduced", "not reproduced", "reproduced"]
    assert float(rows[0]["ours"]) == claims["doubles"]["figures"][0]["ours"]
    page = (out / "claims.md").read_text()
    assert "| [queues.shrinks](#queuesshrinks) | not reproduced |" in page
    assert "Remark: queues grow" in page
    assert page.count("Remark:") == 1

    command.show(answer)
    shown = capsys.readouterr().out
    assert "queues.doubles" in shown and "0.50x" in shown and "not reproduced" in shown
    answer_of(capsys, *words)  # an earlier result is replaced


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("suite=claims claims=[queue]", "claims = queue: must be some of queues, others; null: all"),
        ("suite=claims claims=[]", "claims = []: must be some of queues, others"),
        ("suite=papers", "suite = papers: must be one of batching, claims"),
        ("claims=[queues]", "suite = None: must be claims, or null without claims"),
        ("suite=claims scenario=generated_8xh100", "scenario: must not be given with suite=claims"),
        ("suite=claims out=/dev/null", "out = /dev/null: exists and holds something else"),
    ],
)
def test_bad_input(
    words: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PAPERS", PAPERS)
    assert message in error_of(capsys, "evaluate", *words.split())


def test_data_that_are_not_there_are_named_before_any_work(tmp_path: Path) -> None:
    def never() -> Mapping[str, Sequence[float]]:
        raise AssertionError

    claims = [
        Claim("first", "", "", [], never),
        Claim("second", "", "", [], never, data=["traces/nowhere.csv"]),
    ]
    with pytest.raises(InputError, match=r"one\.second is measured on traces/nowhere\.csv"):
        run_claims(None, tmp_path / "out", {"one": Paper("", "", claims)})
    assert not (tmp_path / "out").exists()
