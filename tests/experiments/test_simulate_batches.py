"""`servegym simulate` with scenarios of batch serving: what it writes is what the simulator did."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from servegym.agents.batch_schedulers import make_batch_scheduler
from servegym.envs.batch_scenario import load_batch_scenario
from servegym.envs.sim.batch.simulate import BatchResults
from servegym.envs.sim.batch.state import OUTCOMES
from servegym.experiments.cli import main
from tests.experiments.commands import answer_of, error_of

SMALL = (
    "scenario=zoo_24_models",
    "scenario.zoo.count=3",
    "scenario.fleet.num_gpus=1",
    "scenario.workload.rate_rps=600",
    "scenario.workload.requests=300",
    "scenario.episode.requests=40",
)


def simulated(seed: int) -> BatchResults:
    scenario = load_batch_scenario("zoo_24_models", SMALL[1:])
    scheduler = make_batch_scheduler("symphony", condition="eager")
    return scenario.simulate(scenario.traffic.test_workload(seed), scheduler, log=True)


def test_files_hold_what_the_simulator_returns(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    words = ("policy=symphony", "policy.condition=eager", "seed=3", "out=a/b")
    answer = answer_of(capsys, "simulate", *SMALL, *words)
    expected = simulated(3)
    table = pq.read_table(folder / "a/b/requests.parquet").to_pydict()
    np.testing.assert_array_equal(table["arrival_s"], expected.arrival_s)
    assert table["outcome"] == [OUTCOMES[number] for number in expected.outcome]
    assert set(table["outcome"]) == {"good", "dropped"}
    served = expected.batch_size > 0
    for name in ("start_s", "end_s", "gpu", "batch_size"):
        assert table[name] == [
            value if was else None
            for value, was in zip(getattr(expected, name).tolist(), served, strict=True)
        ]
    response_s = 2e-3
    assert table["latency_s"][0] == expected.end_s[0] + response_s - expected.arrival_s[0]
    batches = pq.read_table(folder / "a/b/batches.parquet").to_pydict()
    assert sum(batches["num_requests"]) == served.sum()
    assert len(batches["gpu"]) == expected.num_batches
    assert set(batches["model"]) == {"BERT-dist4l-FP16", "WideAndDeep-FP16", "BERT-dist6l-FP16"}
    metrics = answer["metrics"]
    assert metrics["bad_share"] == expected.bad_share > 0
    assert metrics["num_good"] + metrics["num_dropped"] == metrics["num_requests"] == 300
    assert metrics["worst_bad_share"] == max(answer["bad_share_by_model"].values()) >= metrics["bad_share"]
    assert answer["policy"]["condition"] == "eager"
    assert answer.pop("out") == "a/b"
    assert json.loads((folder / "a/b/metrics.json").read_text()) == answer


@pytest.mark.usefixtures("folder")
def test_training_episodes_and_a_folder_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    answer = answer_of(capsys, "simulate", *SMALL, "split=train")
    assert answer["out"].startswith("runs/simulate/zoo_24_models-symphony-seed0-")
    assert answer["metrics"]["num_requests"] == 40
    assert main(["simulate", *SMALL, "split=train"]) == 0
    assert "symphony on zoo_24_models" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("folder")
def test_an_autoscaler_uses_fewer_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    fleet = ("scenario.fleet.num_gpus=4", "scenario.fleet.initial_gpus=1", "scenario.fleet.startup_s=0.01")
    all_gpus = answer_of(capsys, "simulate", *SMALL, *fleet)
    scaled = answer_of(
        capsys,
        "simulate",
        *SMALL,
        *fleet,
        "autoscaler=load_proportional",
        "autoscaler.every_s=0.05",
        "out=scaled",
    )
    assert scaled["autoscaler"]["every_s"] == 0.05
    assert all_gpus["autoscaler"] is None
    assert all_gpus["metrics"]["gpu_s"] == pytest.approx(4 * all_gpus["metrics"]["duration_s"])
    assert 0 < scaled["metrics"]["gpu_s"] < 0.8 * all_gpus["metrics"]["gpu_s"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "words, message",
    [
        (("policy=jsq",), "policy = jsq: must be one of clipper, clockwork, "),
        (("router=jsq",), "router: must not be chosen here"),
        (("policy.margin_s=-1",), "policy.margin_s = -1: must be at least 0"),
        (("autoscaler=none",), "autoscaler = none: must be one of load_proportional"),
        (
            ("autoscaler=load_proportional", "autoscaler.patience=0"),
            "autoscaler.patience = 0: must be at least 1",
        ),
        (
            ("autoscaler=load_proportional", "+autoscaler.initial=1"),
            "autoscaler.initial = 1: is the scenario's",
        ),
        (("split=all",), "split = all: must be one of train, test"),
        (("seed=-1",), "seed = -1: must be at least 0"),
        (("scenario.zoo.gpu=H100",), "scenario.zoo.gpu = H100"),
    ],
)
def test_bad_input_is_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert message in error_of(capsys, "simulate", *SMALL, *words)


def test_replay_wants_a_simulation_of_llm_fleets(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["simulate", *SMALL, "out=run"]) == 0
    assert "run = run: is of batch serving; must be of LLM fleets" in error_of(capsys, "replay", "run")
