"""`servegym pairs`: all pairs that apply on the same requests, each as `servegym simulate` has it."""

import csv
from pathlib import Path

import pytest

from servegym.envs.scenario import load_scenario
from servegym.experiments.cli import main
from servegym.experiments.evaluation.pairs import SCREENING_SEEDS, applicable_pairs
from tests.experiments.commands import SMALL_SCENARIO, answer_of, error_of

FEW_SEATS = (*SMALL_SCENARIO, "scenario.engine.max_num_seqs=4", "scenario.workload.prediction_error=0.2")
FEW_PAIRS = ("routers=[jsq,random,sal]", "schedulers=[sjf,trail]")


def test_pairs_are_all_whose_needs_are_met() -> None:
    overrides = ("scenario.fleet.replicas=2", "scenario.workload.rate_rps=30", "scenario.workload.test_s=20")
    blind = load_scenario("generated_8xh100", overrides)
    told = load_scenario("generated_8xh100", (*overrides, "scenario.workload.prediction_error=0.2"))
    names = [pair.name for pair in applicable_pairs(told)]
    assert len(set(names)) == len(names)
    assert {"jsq", "jsq+sjf", "marginal_latency+trail"} <= set(names)
    fewer = {pair.name for pair in applicable_pairs(blind)}
    assert "jsq" in fewer and "jsq+fastserve" in fewer
    assert fewer < set(names) and "jsq+sjf" not in fewer
    assert not any(name.startswith(("splitwise", "preble")) or name.endswith("edf") for name in names)


@pytest.mark.compiled
def test_figures_are_those_of_simulate(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    words = (*FEW_SEATS, *FEW_PAIRS, "seeds=3", "finalists=2", "out=pairs.csv")
    answer = answer_of(capsys, "pairs", *words)
    ((name, found),) = answer["scenarios"].items()
    assert name == "generated_8xh100" and found["metric"] == "mean_latency_s"
    table = found["pairs"]
    assert len(table) == 6 and list(folder.iterdir()) == [folder / "pairs.csv"]
    assert sorted(figures["num_seeds"] for figures in table.values()) == [SCREENING_SEEDS] * 4 + [3] * 2
    best = min(
        (pair for pair in table if table[pair]["num_seeds"] == 3), key=lambda pair: table[pair]["mean"]
    )
    assert found["best"] == best == next(iter(table)) and table[best]["ratio"] == 1
    assert next(iter(answer["overall"])) == min(table, key=lambda pair: (table[pair]["ratio"], pair))
    simulated = [
        answer_of(capsys, "simulate", *FEW_SEATS, "router=sal", "scheduler=trail", f"seed={seed}", "out=run")
        for seed in range(table["sal+trail"]["num_seeds"])
    ]
    mean_s = sum(each["metrics"]["mean_latency_s"] for each in simulated) / len(simulated)
    assert table["sal+trail"]["mean"] == pytest.approx(mean_s)
    with (folder / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] for row in rows] == list(table)
    assert float(rows[0]["mean"]) == table[best]["mean"]


@pytest.mark.compiled
def test_table(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["pairs", *FEW_SEATS, "routers=[jsq]", "schedulers=[sjf]", "seeds=1"]) == 0
    assert "jsq+sjf" in capsys.readouterr().out and list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "scenario: give scenario=NAME or suite=NAME"),
        ((*SMALL_SCENARIO, "suite=routing"), "scenario: give scenario=NAME or suite=NAME"),
        (("suite=claims",), "suite = claims: has no scenarios"),
        (("scenario=resnet50_8gpu",), "must be of LLM fleets"),
        ((*SMALL_SCENARIO, "routers=[jsqq]"), "routers: jsqq: must be one of"),
        ((*SMALL_SCENARIO, "schedulers=[fifo]"), "schedulers: fifo: must be one of"),
        ((*SMALL_SCENARIO, "schedulers=[sjf]"), "none of the routers and schedulers given applies"),
        ((*SMALL_SCENARIO, "finalists=0"), "finalists = 0: must be at least 1"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in error_of(capsys, "pairs", *words)
