"""Runs in the layout of Vidur's, made by the reference simulator on made-up tables."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from servegym.costmodels.iterations.lookup import PER_TOKEN_OPERATORS
from servegym.experiments.validation.reference_run import ENTRIES
from tests.reference.lookup import read_lookup_cost
from tests.reference.settings import ReplicaSpec
from tests.reference.simulate import simulate_fleet
from tests.reference.test_vidur import engine_of, entries

LAYERS = 4
LONGEST = 512  # tokens of a request, and of a batch

SETTINGS: dict[str, Any] = {
    "trace": "trace.csv",
    "tables": "../tables",
    "layers": LAYERS,
    "router": "round_robin",
    "block_size": 16,
    "watermark_fraction": 0.02,
    "max_num_seqs": 16,
}
LIMITS = {"sarathi": {"chunk_size": 32}, "vllm_v0": {"max_padded_prefill_tokens": LONGEST}}


def write_tables(folder: Path) -> None:
    """Times that grow with the tokens, one operator a little slower than the other."""
    folder.mkdir(parents=True)
    for number, operator in enumerate(PER_TOKEN_OPERATORS, start=1):
        rows = [(n, 0.05 + number * n / 5000) for n in range(1, LONGEST + 1)]
        _write(folder / f"table_{operator}.csv", ("num_tokens", "ms"), rows)
    decode = [(b, kv, 0.02 + b * (1 + kv) / 9000) for b in range(1, 17) for kv in range(0, LONGEST + 1, 64)]
    _write(folder / "table_attn_decode.csv", ("batch_size", "kv_cache_size", "ms"), decode)
    names = ("kv_cache_size", "prefill_chunk_size_squared", "ms")
    prefill = [
        (kv, root**2, 0.01 + root * (kv + root) / 70000)
        for kv in range(0, 2 * LONGEST, 64)
        for root in range(1, LONGEST + 1)
    ]
    _write(folder / "table_attn_prefill.csv", names, prefill)


def write_made_up_run(
    folder: Path, scheduler: str, replicas: int, num_blocks: int, seed: int, **changed: Any
) -> Any:
    """Writes a run of 60 requests with tables in `../tables`; returns what the reference simulator says."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    settings = {
        **SETTINGS,
        **LIMITS[scheduler],
        "scheduler": scheduler,
        "replicas": replicas,
        "num_blocks": num_blocks,
        **changed,
    }
    arrival_s = np.round(np.cumsum(rng.exponential(0.02 / replicas, 60)), 6)
    prompts = np.where(rng.random(60) < 0.3, rng.integers(150, 300, 60), rng.integers(1, 60, 60))
    outputs = rng.integers(1, 120, 60)
    turn = iter(range(60))
    spec = ReplicaSpec(engine_of(settings), read_lookup_cost(folder / "../tables", LAYERS))
    result = simulate_fleet(
        SimpleNamespace(arrival_s=arrival_s, prompt_tokens=prompts, output_tokens=outputs),
        lambda replicas, request: next(turn) % len(replicas),
        replicas=[spec] * replicas,
    )
    (folder / "reference.json").write_text(json.dumps(settings))
    header = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
    _write(folder / "trace.csv", header, zip(arrival_s, prompts, outputs, strict=True))
    header = (
        "request_id",
        "scheduled_at",
        "prefill_completed_at",
        "completed_at",
        "num_restarts",
        "replica_id",
    )
    columns = (result.scheduled_s, result.first_token_s, result.finish_s, result.preemptions, result.replica)
    _write(folder / "requests.csv", header, zip(range(60), *columns, strict=True))
    header = ("replica_id", "scheduled_at", "completed_at", "num_requests", "num_tokens", ENTRIES)
    batches = [
        (each.replica, each.start_s, each.end_s, len(each.entries), each.tokens, entries(each))
        for log in result.iterations
        for each in log
    ]
    _write(folder / "batches.csv", header, batches)
    return result


def _write(path: Path, header: tuple[str, ...], rows: Any) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
