"""`servegym simulate`: what it writes is what the simulator did."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from servegym.agents.heuristics import make_router
from servegym.envs.metrics import SloLimits, summarise
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.experiments.cli import main
from tests.experiments.commands import SMALL_SCENARIO, answer_of, error_of


def simulated(router: str, seed: int) -> Results:
    scenario = load_scenario("generated_8xh100", SMALL_SCENARIO[1:])
    return simulate(
        scenario.traffic.test_workload(seed),
        make_router(router),
        num_replicas=scenario.num_replicas,
        engine=scenario.engine,
        cost=scenario.cost,
        seed=seed,
    )


@pytest.mark.parametrize("seed", [0, 3])
def test_files_hold_what_the_simulator_returns(
    capsys: pytest.CaptureFixture[str], folder: Path, seed: int
) -> None:
    answer = answer_of(capsys, "simulate", *SMALL_SCENARIO, "router=random", f"seed={seed}", "out=a/b")
    expected = simulated("random", seed)
    table = pq.read_table(folder / "a/b/requests.parquet").to_pydict()
    assert set(table["outcome"]) == {"finished"} and set(table["cancelled_s"]) == {None}
    for name in Results.__dataclass_fields__.keys() - {"log", "outcome", "cancelled_s"}:
        np.testing.assert_array_equal(table[name], getattr(expected, name))
    np.testing.assert_array_equal(table["ttft_s"], expected.first_token_s - expected.arrival_s)
    np.testing.assert_array_equal(table["latency_s"], expected.finish_s - expected.arrival_s)
    for i, output_tokens in enumerate(table["output_tokens"]):
        if output_tokens == 1:
            assert table["tpot_s"][i] is None
        else:
            decoding_s = expected.finish_s[i] - expected.first_token_s[i]
            assert table["tpot_s"][i] == pytest.approx(decoding_s / (output_tokens - 1))
    objective = load_scenario("generated_8xh100").objective
    limits = SloLimits(objective.slo_ttft_s, objective.slo_tpot_s)
    assert answer["metrics"] == summarise(expected, limits)
    assert 0.9 < answer["metrics"]["slo_attainment"] <= 1
    assert answer.pop("out") == "a/b"
    assert json.loads((folder / "a/b/metrics.json").read_text()) == answer
    assert (answer["router"], answer["seed"]) == ({"name": "random"}, seed)
    assert answer["workload_source"] == "generator fitted to azure_conv_2023"
    assert {path.name for path in (folder / "a").iterdir()} == {"b"}


def test_router_parameters_reach_the_router(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    of_all = ("router=power_of_two", "router.d=2")  # of two replicas: the shortest queue
    of_one = ("router=power_of_two", "router.d=1")
    best, random = (answer_of(capsys, "simulate", *SMALL_SCENARIO, *words) for words in (of_all, of_one))
    assert best["router"] == {"name": "power_of_two", "d": 2}
    assert best["metrics"]["mean_ttft_s"] < random["metrics"]["mean_ttft_s"]


def test_training_split_is_the_first_training_episode(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    answer = answer_of(capsys, "simulate", *SMALL_SCENARIO, "split=train", "out=x")
    child = np.random.SeedSequence(0).spawn(1)[0]
    expected = load_scenario("generated_8xh100", SMALL_SCENARIO[1:]).traffic.train_workload(child)
    table = pq.read_table(folder / "x/requests.parquet").to_pydict()
    np.testing.assert_array_equal(table["arrival_s"], expected.arrival_s)
    assert answer["split"] == "train"


def test_table_for_people(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["simulate", *SMALL_SCENARIO]) == 0
    shown = capsys.readouterr().out
    assert "mean_ttft_s" in shown
    assert "generator fitted to azure_conv_2023" in shown
    assert "runs/simulate/generated_8xh100-jsq-seed0" in shown


def test_an_earlier_result_is_replaced_and_nothing_else(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    answer_of(capsys, "simulate", *SMALL_SCENARIO, "out=x", "seed=1")
    answer_of(capsys, "simulate", *SMALL_SCENARIO, "out=x", "seed=0")
    assert json.loads((folder / "x/metrics.json").read_text())["seed"] == 0
    (folder / "x/notes.txt").write_text("mine")
    assert "out = x" in error_of(capsys, "simulate", *SMALL_SCENARIO, "out=x")
    assert (folder / "x/notes.txt").read_text() == "mine"


def test_a_trace_of_ones_own(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    rows = [f"{second},{100 + second},5" for second in range(40)]
    (folder / "my.csv").write_text("\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows]))
    words = ("scenario.workload.trace=my.csv", "scenario.workload.format=csv", "scenario.workload.keep=1")
    answer = answer_of(capsys, "simulate", *SMALL_SCENARIO, *words, "out=x")
    table = pq.read_table(folder / "x/requests.parquet").to_pydict()
    assert table["prompt_tokens"] == list(range(119, 140))  # the last 20 s
    assert answer["workload_source"] == "trace my.csv"
