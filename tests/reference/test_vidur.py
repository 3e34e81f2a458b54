"""The reference simulator repeats the published runs of Vidur: every batch, and every time."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.reference.engine import Engine
from tests.reference.lookup import read_csv, read_lookup_cost
from tests.reference.settings import ReplicaSpec
from tests.reference.simulate import simulate_fleet

RUNS = ("sarathi_1r", "sarathi_1r_kv400", "vllm_1r", "vllm_1r_kv400")
LONGEST_REQUEST = 4096  # tokens; Vidur's limit for a request, which bounds any of its batches here


ENTRIES = "entries(request:tokens:processed_before:prefill_done)"


def reference_folder():
    """Where the runs are: under `SERVEGYM_REFERENCE`, or beside the checkout."""
    beside = Path(__file__).parents[3] / "shared" / "reference"
    return Path(os.environ.get("SERVEGYM_REFERENCE", beside)) / "vidur"


def engine_of(settings):
    shared = {
        "max_num_seqs": settings["max_num_seqs"],
        "block_size": settings["block_size"],
        "num_kv_blocks": settings["num_blocks"],
        "scheduler": settings["scheduler"],
        "watermark": settings["watermark_fraction"],
        "restart_cuts_prompt": True,
    }
    if settings["scheduler"] == "sarathi":
        return Engine(settings["chunk_size"], **shared)
    padded = settings["max_padded_prefill_tokens"]
    return Engine(LONGEST_REQUEST, **shared, max_padded_prefill_tokens=padded)


def replay(folder):
    """The run anew: its results, and Vidur's records of requests and batches."""
    settings = json.loads((folder / "reference.json").read_text())
    trace = read_csv(folder / settings["trace"])
    names = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
    arrival_s, prompt, output = ([float(row[name]) for row in trace] for name in names)
    workload = SimpleNamespace(arrival_s=arrival_s, prompt_tokens=prompt, output_tokens=output)
    cost = read_lookup_cost(folder / settings["tables"], settings["layers"])
    turn = iter(range(len(trace)))
    num_replicas = settings["replicas"]
    result = simulate_fleet(
        workload,
        lambda replicas, request: next(turn) % num_replicas,
        replicas=[ReplicaSpec(engine_of(settings), cost)] * num_replicas,
        check=settings["num_blocks"] <= 1000,
    )
    return result, read_csv(folder / "requests.csv"), read_csv(folder / "batches.csv")


def entries(iteration):
    """As Vidur writes them: a decode's own token counts as processed before it is."""
    return " ".join(
        f"{e.request}:{e.tokens}:{e.computed + (not e.is_prefill)}:{int(not e.is_prefill)}"
        for e in iteration.entries
    )


def numbers(rows, *names):
    return [[float(row[name]) for name in names] for row in rows]


@pytest.mark.parametrize("run", RUNS)
def test_run_of_vidur_is_repeated(run):
    folder = reference_folder() / run
    if not folder.exists():
        pytest.skip(f"no reference run at {folder}: set SERVEGYM_REFERENCE")
    result, requests, batches = replay(folder)

    iterations = sorted((i for log in result.iterations for i in log), key=lambda i: (i.start_s, i.replica))
    expected = sorted(batches, key=lambda row: (float(row["scheduled_at"]), int(row["replica_id"])))
    for number, (iteration, row) in enumerate(zip(iterations, expected, strict=False)):
        assert (iteration.replica, entries(iteration)) == (int(row["replica_id"]), row[ENTRIES]), (
            f"batch {number}"
        )
    assert len(iterations) == len(expected)
    ours = [(i.start_s, i.end_s, i.end_s - i.start_s) for i in iterations]
    times = ("scheduled_at", "completed_at", "execution_time")
    np.testing.assert_allclose(ours, numbers(expected, *times), rtol=1e-6, atol=1e-9)

    ours = np.transpose([result.scheduled_s, result.first_token_s, result.finish_s])
    times = ("scheduled_at", "prefill_completed_at", "completed_at")
    np.testing.assert_allclose(ours, numbers(requests, *times), rtol=1e-6)
    ours = np.transpose([result.preemptions, result.replica])
    np.testing.assert_array_equal(ours, numbers(requests, "num_restarts", "replica_id"))
