"""`servegym bench`: its keys, and the workload it measures with."""

import json
from pathlib import Path

import numpy as np
import pytest

from servegym.agents.batch_schedulers import BATCH_SCHEDULERS
from servegym.agents.heuristics import ROUTERS
from servegym.agents.schedulers import SCHEDULERS
from servegym.envs.workloads import Workload
from servegym.experiments.bench import repeated, show
from servegym.experiments.benchmarks.batch_serving import PLAIN, RATES_RPS
from servegym.experiments.benchmarks.peers import mocker_version, write_mooncake
from servegym.experiments.benchmarks.stream import CHUNK, poisson_chunks
from servegym.experiments.benchmarks.training import PARTS
from servegym.experiments.cli import main
from tests.experiments.commands import FEW_REQUESTS, SHORT_BENCH, answer_of


@pytest.mark.compiled
def test_simulator_is_measured_by_number_of_replicas(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    answer = answer_of(capsys, "bench", "simulator", *SHORT_BENCH, *FEW_REQUESTS, "replicas=[1,8]")
    assert set(answer["requests_per_s"]) == {"1", "8"}
    assert set(answer["least_outstanding_tokens_requests_per_s"]) == {"8"}
    assert all(rate > 0 for rate in answer["requests_per_s"].values())
    assert answer["workload_source"].startswith("generator")
    engines = answer["engines"]
    assert {"prefix_caching", "scarce_blocks", "sglang"} < set(engines)
    assert all(found["requests_per_s"] > 0 and found["slower"] > 0 for found in engines.values())


def test_environments_are_measured_by_name(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "bench", "env", *SHORT_BENCH, *FEW_REQUESTS)
    assert set(answer["decisions_per_s"]) == {
        "servegym/Routing-v0",
        "servegym/Batching-v0",
        "servegym/TwoLevel-v0",
        "servegym/DeferredBatching-v0",
        "servegym/DynamicBatching-v0",
        "servegym/ElasticSequenceParallel-v0",
    }
    assert min(answer["decisions_per_s"].values()) > 0
    assert (answer["num_envs"], answer["replicas"]) == (4, 8)


def test_fleets_with_roles_are_measured_by_legal_decisions(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    words = ("scenario=disaggregated_4p4d", "scenario.workload.trace=null")
    answer = answer_of(capsys, "bench", "env", *SHORT_BENCH, *FEW_REQUESTS, *words)
    assert list(answer["decisions_per_s"]) == ["servegym/Routing-v0"]


@pytest.mark.slow
def test_first_steps_are_timed(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "bench", "env", *SHORT_BENCH, *FEW_REQUESTS, "first_call=true")
    assert list(answer["first_step"]) == list(answer["decisions_per_s"])
    for found in answer["first_step"].values():
        assert found["cold_s"] > found["cached_s"] > 0


def test_schedulers_of_batches_are_measured_at_two_scales(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    answer = answer_of(capsys, "bench", "batch", *SHORT_BENCH)
    names = [(found["scenario"], found["scheduler"]) for found in answer["schedulers"]]
    assert names == [(scenario, each) for scenario in RATES_RPS for each in (PLAIN, *BATCH_SCHEDULERS)]
    for found in answer["schedulers"]:
        assert found["requests_per_s"] > 0
        assert found["loop_requests_per_s"] > 0
        assert 0 <= found["bad_share"] <= 1
        assert found["slower"] == 1 if found["scheduler"] == PLAIN else found["slower"] > 0
    show(answer)
    assert PLAIN in capsys.readouterr().out


@pytest.mark.compiled
def test_elastic_fleets_are_measured(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "bench", "elastic", *SHORT_BENCH)
    assert answer["requests"] == answer["finished"] == 50
    assert answer["requests_per_s"] == pytest.approx(50 / answer["seconds"])
    assert answer["decision_ms"] > 0
    show(answer)
    assert "1,000 requests waiting and 16 idle instances" in " ".join(capsys.readouterr().out.split())


@pytest.mark.compiled
def test_learning_is_measured_with_where_its_time_goes(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    words = ("scenario=generated_8xh100", "num_envs=16")
    answer = answer_of(capsys, "bench", "training", *SHORT_BENCH, *FEW_REQUESTS, *words)
    assert [found["num_envs"] for found in answer["learners"]] == [16, 16, 16, 8]
    for found in answer["learners"]:
        shares = [found[part] for part in (*PARTS, "rest")]
        assert all(0 < share < 1 for share in shares)
        assert sum(shares) == pytest.approx(1.0)
    mlp, gnn, nothing, _ = answer["learners"]
    assert mlp["environment"] > nothing["environment"]
    assert mlp["decisions_per_s"] > gnn["decisions_per_s"] > 0
    show(answer)
    assert "servegym, gnn" in capsys.readouterr().out


@pytest.mark.compiled
def test_table_names_what_was_measured(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["bench", "env", *SHORT_BENCH, *FEW_REQUESTS]) == 0
    assert "servegym/Routing-v0" in capsys.readouterr().out
    assert main(["bench", "simulator", *SHORT_BENCH, *FEW_REQUESTS]) == 0
    assert "round_robin" in capsys.readouterr().out


def test_repeated_workload_keeps_gaps_and_lengths_and_has_the_rate() -> None:
    once = Workload("three", np.array([1.0, 2.0, 5.0]), np.array([10, 20, 30]), np.array([1, 2, 3]))
    seven = repeated(once, 7, rate_rps=10.0)
    assert seven.prompt_tokens.tolist() == [10, 20, 30, 10, 20, 30, 10]
    assert seven.output_tokens.tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert seven.arrival_s[0] == 0.0
    assert seven.arrival_s[-1] == pytest.approx(0.7)
    gaps = np.diff(seven.arrival_s)
    assert gaps[[1, 4]] / gaps[[0, 3]] == pytest.approx([3.0, 3.0])
    assert (gaps > 0).all()


def test_stream_is_measured_with_its_memory(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    words = ("stream_requests=300", "stream_replicas=4")
    answer = answer_of(capsys, "bench", "stream", *SHORT_BENCH, *FEW_REQUESTS, *words)
    assert (answer["requests"], answer["replicas"]) == (300, 4)
    assert answer["requests_per_s"] == pytest.approx(300 / answer["seconds"])
    assert answer["mean_in_flight"] > 0
    assert answer["peak_rss_mib"] >= answer["rss_growth_mib"] >= 0
    assert answer["bytes_per_slot"] < 200


def test_stream_is_poisson_with_the_lengths_of_the_workload() -> None:
    lengths = Workload("two", np.array([0.0, 1.0]), np.array([10, 20]), np.array([1, 2]))
    chunks = list(poisson_chunks(lengths, CHUNK + 1000, rate_rps=50.0, seed=3))
    assert [chunk.num_requests for chunk in chunks] == [CHUNK, 1000]
    arrival_s = np.concatenate([chunk.arrival_s for chunk in chunks])
    gaps = np.diff(arrival_s)
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 50.0, rel=0.02)
    assert gaps.std() == pytest.approx(1 / 50.0, rel=0.02)
    pairs = np.stack([chunks[0].prompt_tokens, chunks[0].output_tokens], axis=1)
    assert np.unique(pairs, axis=0).tolist() == [[10, 1], [20, 2]]


def test_mooncake_trace_shares_no_block(folder: Path) -> None:
    workload = Workload("three", np.array([0.0, 0.5, 2.0]), np.array([512, 513, 1]), np.array([1, 2, 3]))
    write_mooncake(workload, folder / "trace.jsonl")
    lines = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
    assert [line["timestamp"] for line in lines] == [0.0, 500.0, 2000.0]
    assert [(line["input_length"], line["output_length"]) for line in lines] == [(512, 1), (513, 2), (1, 3)]
    assert [line["hash_ids"] for line in lines] == [[0], [1, 2], [3]]


def test_peer_runs_the_same_requests_or_is_skipped(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    words = ("bench", "peers", *SHORT_BENCH, *FEW_REQUESTS, "peer_requests=50", "peer_replicas=[1,2]")
    if mocker_version() is None:
        assert main(words) == 0
        assert "Skipped" in capsys.readouterr().out
        assert answer_of(capsys, *words)["dynamo_mocker"] == {}
        return
    answer = answer_of(capsys, *words)
    assert set(answer["dynamo_mocker"]) == {"1", "2"}
    for found in answer["dynamo_mocker"].values():
        assert found["ratio"] == pytest.approx(found["requests_per_s"] / found["mocker_requests_per_s"])
        assert found["mocker_mean_latency_s"] > found["mocker_mean_ttft_s"] > 0


@pytest.mark.slow
def test_processes_side_by_side(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "bench", "env", *SHORT_BENCH, *FEW_REQUESTS, "processes=2")
    assert answer["processes"] == 2
    assert answer["processes_ratio"] > 0


@pytest.mark.compiled
def test_every_router_and_scheduler_is_measured(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "bench", "policies", *SHORT_BENCH, *FEW_REQUESTS)
    found = {each["name"]: each for family in ("routers", "schedulers") for each in answer[family]}
    assert set(found) == {*ROUTERS, *SCHEDULERS}
    assert all(each["requests_per_s"] > 0 for each in found.values())
    assert [found[name]["target"] for name in ("jsq", "sjf", "srpt")] == [1e6, 3e5, 5e4]
    assert found["splitwise"]["scenario"] == "disaggregated_4p4d"
