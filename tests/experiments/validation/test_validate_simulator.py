"""Another simulator's runs: read from either layout, and every kind of deviation found and placed."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.log import IterationLog
from servegym.envs.sim.llm.simulate import Results
from servegym.experiments.cli import main
from servegym.experiments.validation.reference_run import ENTRIES, ReferenceRun, find_runs, read_reference_run
from servegym.experiments.validation.simulator import compare
from tests.experiments.commands import answer_of, error_of
from tests.experiments.made_up_runs import write_made_up_run, write_tables

RUNS = ["sarathi_1r", "sarathi_1r_kv400", "vllm_1r", "vllm_1r_kv400"]
"""Of Vidur, where they are at hand."""

SETTINGS = {
    "trace": "../trace.csv",
    "tables": "../tables",
    "layers": 32,
    "router": "round_robin",
    "replicas": 2,
    "scheduler": "sarathi",
    "block_size": 16,
    "num_blocks": 100,
    "watermark_fraction": 0.01,
    "max_num_seqs": 8,
    "chunk_size": 64,
}
TRACE = ["arrived_at,num_prefill_tokens,num_decode_tokens", "0.5,20,2", "1.0,30,1", "1.5,10,1"]
REQUESTS = [
    "request_id,scheduled_at,prefill_completed_at,completed_at,num_restarts,replica_id",
    "2,1.5,1.75,1.75,0,0",
    "0,0.5,1.5,1.75,0,0",
    "1,1.0,1.25,1.25,0,1",
]
BATCHES = [
    f"batch_id,replica_id,scheduled_at,completed_at,execution_time,num_requests,num_tokens,{ENTRIES}",
    "0,0,0.5,1.5,1.0,1,20,0:20:0:0",
    "1,1,1.0,1.25,0.25,1,30,1:30:0:0",
    "2,0,1.5,1.75,0.25,2,11,0:1:21:1 2:10:0:0",
]


def write_run(folder: Path, *, compressed: bool = False) -> Path:
    run = folder / "run"
    run.mkdir(parents=True)
    (run / "reference.json").write_text(json.dumps(SETTINGS))
    for path, lines in (
        (folder / "trace.csv", TRACE),
        (run / "requests.csv", REQUESTS),
        (run / "batches.csv", BATCHES),
    ):
        text = ("\n".join(lines) + "\n").encode()
        if compressed:
            path = path.with_name(f"{path.name}.gz")
        path.write_bytes(gzip.compress(text) if compressed else text)
    return run


@pytest.fixture
def run(tmp_path: Path) -> ReferenceRun:
    return read_reference_run(write_run(tmp_path))


def results_of(run: ReferenceRun, **changed: np.ndarray) -> Results:
    workload = run.workload
    same = {
        "arrival_s": workload.arrival_s,
        "prompt_tokens": workload.prompt_tokens,
        "output_tokens": workload.output_tokens,
        "replica": run.replica,
        "scheduled_s": run.scheduled_s,
        "first_token_s": run.first_token_s,
        "finish_s": run.finish_s,
        "preemptions": run.restarts,
        "hit_tokens": np.zeros(workload.num_requests, np.int64),
    }
    return Results.all_finished(**{**same, **changed})


@pytest.mark.parametrize("compressed", [False, True])
def test_reading(tmp_path: Path, compressed: bool) -> None:
    folder = write_run(tmp_path, compressed=compressed)
    assert find_runs(tmp_path) == find_runs(folder) == [folder]
    run = read_reference_run(folder)
    assert run.workload.arrival_s.tolist() == [0.5, 1.0, 1.5]
    assert run.replica.tolist() == [0, 1, 0]
    assert run.finish_s.tolist() == [1.75, 1.25, 1.75]
    assert run.log.iterations[["replica", "start_s", "end_s", "tokens", "decodes"]].tolist() == [
        (0, 0.5, 1.5, 20, 0),
        (1, 1.0, 1.25, 30, 0),
        (0, 1.5, 1.75, 11, 1),
    ]
    # Vidur's 21 tokens processed are 20 computed and the one that came with the prefill's end.
    assert run.log.entries_of(2)[["request", "tokens", "computed", "is_prefill"]].tolist() == [
        (0, 1, 20, False),
        (2, 10, 0, True),
    ]


def test_a_run_equals_itself(run: ReferenceRun) -> None:
    answer = compare(run, results_of(run), run.log)
    assert answer["max_rel_diff"] == 0
    assert answer["batches_equal"] and answer["replicas_equal"] and answer["restarts_equal"]
    assert answer["equal_batches"] == 3 and answer["first_difference"] is None


@pytest.mark.parametrize("name", ["scheduled_s", "first_token_s", "finish_s"])
def test_one_time_of_one_request(run: ReferenceRun, name: str) -> None:
    times = getattr(run, name).copy()
    times[1] *= 1 + 1e-6
    answer = compare(run, results_of(run, **{name: times}), run.log)
    assert answer["max_rel_diff"] == answer["rel_diff"][name] == pytest.approx(1e-6, rel=1e-5)
    times[1] = np.nan
    assert compare(run, results_of(run, **{name: times}), run.log)["max_rel_diff"] == np.inf


@pytest.mark.parametrize("name, share", [("start_s", 1e-6 * 1.5 / 0.25), ("end_s", 1e-6 * 1.75 / 0.25)])
def test_one_time_of_one_batch(run: ReferenceRun, name: str, share: float) -> None:
    """The duration, 0.25 s, deviates most."""
    iterations = run.log.iterations.copy()
    iterations[name][2] *= 1 + 1e-6
    answer = compare(run, results_of(run), replace(run.log, iterations=iterations))
    assert answer["batches_equal"]
    assert answer["max_rel_diff"] == answer["rel_diff"]["batches"] == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize(
    "field, entry, value, found",
    [
        ("tokens", 2, 2, "0:2:20 2:10:0p"),
        ("computed", 2, 21, "0:1:21 2:10:0p"),
        ("is_prefill", 2, True, "0:1:20p 2:10:0p"),
        ("request", 3, 1, "0:1:20 1:10:0p"),
    ],
)
def test_one_entry_of_one_batch(run: ReferenceRun, field: str, entry: int, value: int, found: str) -> None:
    entries = run.log.entries.copy()
    entries[field][entry] = value
    answer = compare(run, results_of(run), replace(run.log, entries=entries))
    assert not answer["batches_equal"] and answer["equal_batches"] == 2
    assert answer["first_difference"] == {
        "replica": 0,
        "batch": 1,
        "expected": "at 1.5 s: 0:1:20 2:10:0p",
        "found": f"at 1.5 s: {found}",
    }


def test_order_within_a_batch_does_not_count(run: ReferenceRun) -> None:
    entries = run.log.entries.copy()
    entries[[2, 3]] = entries[[3, 2]]
    assert compare(run, results_of(run), replace(run.log, entries=entries))["batches_equal"]


def test_a_batch_too_few_or_too_many(run: ReferenceRun) -> None:
    first = IterationLog(run.log.iterations[:2], run.log.entries[:2], run.log.preemptions)
    fewer = compare(run, results_of(run), first)
    assert fewer["first_difference"]["found"] == "no such batch"
    more = compare(replace(run, log=first), results_of(run), run.log)
    assert more["first_difference"] == {
        "replica": 0,
        "batch": 1,
        "expected": "no such batch",
        "found": "at 1.5 s: 0:1:20 2:10:0p",
    }
    assert more["equal_batches"] == 2 and not more["batches_equal"]


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        ("run/reference.json", "round_robin", "lor", "router = lor: must be round_robin"),
        ("run/reference.json", '"replicas": 2', '"replicas": "2"', "replicas = 2: must be of type int"),
        ("run/reference.json", "trace.csv", "nosuch.csv", "nosuch.csv: no such file, nor nosuch.csv.gz"),
        ("run/reference.json", '"layers"', '"layer"', "layers is missing: must be of type int"),
        ("run/reference.json", "{", "[", "cannot be read as JSON"),
        ("run/requests.csv", "\n1,1.0", "\n0,1.0", "must hold every request of .* once"),
        ("run/requests.csv", "0,0.5,1.5", "0,0.5,", "prefill_completed_at has 1 empty values"),
        ("run/batches.csv", "2:10:0:0", "2:10:0", "15 numbers in entries, num_requests means 16"),
        ("run/batches.csv", "2:10:0:0", "7:10:0:0", "a request id is not from 0 to 2"),
        ("run/batches.csv", "2:10:0:0", "2:10:0:x", "invalid literal"),
        ("run/batches.csv", "scheduled_at", "started_at", "cannot be read as columns .*scheduled_at"),
    ],
)
def test_bad_runs_are_refused(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    folder = write_run(tmp_path)
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_reference_run(folder)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no reference.json, there or in a folder of it"):
        find_runs(tmp_path)


@pytest.mark.parametrize("scheduler", ["sarathi", "vllm_v0"])
@pytest.mark.parametrize("replicas, num_blocks", [(1, 45), (2, 40), (3, 300)])
def test_runs_of_the_reference_simulator_are_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scheduler: str, replicas: int, num_blocks: int
) -> None:
    """Also where memory is so scarce that a request is preempted in the middle of its prefill, and cut."""
    write_tables(tmp_path / "tables")
    made = [write_made_up_run(tmp_path / f"run{s}", scheduler, replicas, num_blocks, s) for s in range(2)]
    if num_blocks < 100:
        assert all(result.preemptions.sum() > 50 for result in made)
    answer = answer_of(capsys, "validate", "simulator", f"reference={tmp_path}")
    assert answer["batches_equal"], answer["runs"]
    assert answer["max_rel_diff"] < 1e-9
    for run, result in zip(answer["runs"], made, strict=True):
        assert run["replicas_equal"] and run["restarts_equal"]
        assert run["batches"] == run["found_batches"] == sum(map(len, result.iterations))


def test_more_seats_than_tokens_in_a_chunk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A request in the middle of its prefill may get nothing, when decodes take the whole chunk."""
    write_tables(tmp_path / "tables")
    result = write_made_up_run(tmp_path / "run", "sarathi", 1, 300, 0, chunk_size=6)
    assert max(len(iteration.entries) for log in result.iterations for iteration in log) == 6
    answer = answer_of(capsys, "validate", "simulator", f"reference={tmp_path}")
    assert answer["batches_equal"] and answer["max_rel_diff"] < 1e-9


def test_the_first_batch_that_differs_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tables(tmp_path / "tables")
    write_made_up_run(tmp_path / "run", "sarathi", 1, 300, 0)
    path = tmp_path / "run" / "batches.csv"
    lines = path.read_text().splitlines()
    *times, entries = lines[21].split(",")
    request, tokens, processed, done = entries.split(" ")[0].split(":")
    altered = ":".join((request, tokens, str(int(processed) + 1), done))
    lines[21] = ",".join([*times, " ".join([altered, *entries.split(" ")[1:]])])
    path.write_text("\n".join(lines))
    assert main(["validate", "simulator", f"reference={tmp_path / 'run'}"]) == 0
    printed = capsys.readouterr().out
    assert "run: batch 20 of replica 0 differs first." in printed


def test_runs_of_vidur_are_repeated(
    real_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = answer_of(capsys, "validate", "simulator", f"reference={real_data('../reference/vidur')}")
    assert [run["run"] for run in answer["runs"]] == RUNS
    assert answer["batches_equal"] and answer["max_rel_diff"] < 1e-9


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"sarathi"', '"orca"', "scheduler = orca: must be sarathi or vllm_v0"),
        (
            '"max_num_seqs": 16',
            '"max_num_seqs": 17',
            "max_num_seqs = 17: must be at most 16, where its tables",
        ),
        ('"chunk_size": 32', '"chunk_size": 600', "max_num_batched_tokens = 600: must be at most 512"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    write_tables(folder / "tables")
    write_made_up_run(folder / "run", "sarathi", 1, 300, 0)
    path = folder / "run" / "reference.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert message in error_of(capsys, "validate", "simulator", "reference=.")
