"""`servegym validate simulator`: another simulator's runs replayed, batch for batch, on its own tables."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.lookup import read_lookup_tables
from servegym.costmodels.progress import tracked
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.log import IterationLog
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.experiments.validation.reference_run import ReferenceRun, find_runs, read_reference_run

Floats = npt.NDArray[np.float64]

TABLE_WIDTH = 100
"""Columns of text where the output is no terminal."""

ENTRY_FIELDS = ("request", "tokens", "computed", "is_prefill")
"""What makes two batches equal; the order of requests within a batch does not count."""


def validate_simulator(reference: str) -> dict[str, Any]:
    """Replays the run in folder `reference`, or every run in it, with its own settings and tables.

    Differences of times are relative to the larger of the two. InputError for what cannot be replayed.
    """
    folders = find_runs(Path(reference))
    runs = [_compare_with_replay(read_reference_run(each)) for each in tracked(folders, "Replaying", "runs")]
    return {
        "target": "simulator",
        "reference": reference,
        "max_rel_diff": max(run["max_rel_diff"] for run in runs),
        "batches_equal": all(run["batches_equal"] for run in runs),
        "runs": runs,
    }


def show(answer: dict[str, Any]) -> None:
    """Prints a row per run, and where the first batch that differs does so."""
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    table = Table(title=f"Our batches and times against those of {answer['reference']}")
    table.add_column("run", no_wrap=True)
    table.add_column("scheduler", no_wrap=True)
    for heading in ("replicas", "requests", "restarts", "batches", "equal", "rel. difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in answer["runs"]:
        table.add_row(
            run["run"],
            run["scheduler"],
            *(f"{run[key]:,}" for key in ("replicas", "requests", "restarts", "batches")),
            "yes" if run["batches_equal"] else f"{run['equal_batches']:,}",
            f"{run['max_rel_diff']:.2g}",
        )
    console.print(table)
    for run in answer["runs"]:
        if not run["batches_equal"]:
            where = run["first_difference"]
            console.print(
                f"{run['run']}: batch {where['batch']} of replica {where['replica']} differs first.\n"
                f"  expected  {where['expected']}\n  found     {where['found']}\n"
                "  (request:tokens:computed before, p for prefill)"
            )


def _compare_with_replay(run: ReferenceRun) -> dict[str, Any]:
    cost, lookup = read_lookup_tables(run.tables, run.num_layers)
    engine = engine_of(run)
    for key, value, most in (
        ("max_num_seqs", engine.max_num_seqs, len(lookup.decode_s) - 1),
        ("max_num_batched_tokens", engine.max_num_batched_tokens, len(cost.linear_s) - 1),
    ):
        if value > most:
            raise InputError(f"{run.name}: {key} = {value}: must be at most {most}, where its tables end")
    results = simulate(
        run.workload,
        make_router("round_robin"),
        num_replicas=run.num_replicas,
        engine=engine,
        cost=cost,
        lookup=lookup,
        log=True,
    )
    assert results.log is not None  # asked for
    return {
        "run": run.name,
        "scheduler": run.scheduler,
        "replicas": run.num_replicas,
        "requests": run.workload.num_requests,
        "restarts": int(run.restarts.sum()),
        **compare(run, results, results.log),
    }


def engine_of(run: ReferenceRun) -> Engine:
    """The engine settings under our names."""
    common: dict[str, Any] = {
        "scheduler": run.scheduler,
        "max_num_seqs": run.setting("max_num_seqs", int),
        "num_kv_blocks": run.setting("num_blocks", int),
        "block_size": run.setting("block_size", int),
        "watermark": run.setting("watermark_fraction", float),
        "restart_cuts_prompt": True,
    }
    if run.scheduler == "sarathi":
        return Engine(max_num_batched_tokens=run.setting("chunk_size", int), **common)
    if run.scheduler == "vllm_v0":
        padded = run.setting("max_padded_prefill_tokens", int)
        return Engine(max_num_batched_tokens=padded, max_padded_prefill_tokens=padded, **common)
    raise InputError(f"{run.name}: scheduler = {run.scheduler}: must be sarathi or vllm_v0")


def compare(run: ReferenceRun, results: Results, log: IterationLog) -> dict[str, Any]:
    """How far results and log are from a reference run.

    Times of batches are compared up to the first batch of a replica that differs, as nothing after it is
    the same batch.
    """
    request_diff = {
        name: _most(relative_differences(getattr(results, name), getattr(run, name)))
        for name in ("scheduled_s", "first_token_s", "finish_s")
    }
    equal_batches, batch_diff = 0, 0.0
    differences = []
    for replica in range(run.num_replicas):
        expected, found = _Batches(run.log, replica), _Batches(log, replica)
        first = expected.first_difference(found)
        both = min(len(expected), len(found)) if first is None else first
        equal_batches += both
        batch_diff = max(batch_diff, expected.time_difference(found, both))
        if first is not None:
            differences.append((expected.start_s(first), replica, first, expected, found))
    answer: dict[str, Any] = {
        "max_rel_diff": max(batch_diff, *request_diff.values()),
        "batches_equal": not differences,
        "replicas_equal": bool(np.array_equal(results.replica, run.replica)),
        "restarts_equal": bool(np.array_equal(results.preemptions, run.restarts)),
        "batches": len(run.log.iterations),
        "found_batches": len(log.iterations),
        "equal_batches": equal_batches,
        "rel_diff": {**request_diff, "batches": batch_diff},
        "first_difference": None,
    }
    if differences:
        _, replica, first, expected, found = min(differences, key=lambda difference: difference[:2])
        answer["first_difference"] = {
            "replica": replica,
            "batch": first,
            "expected": expected.describe(first),
            "found": found.describe(first),
        }
    return answer


def relative_differences(found: Floats, expected: Floats) -> Floats:
    """|found - expected| over the larger of their magnitudes (N,).

    0 where equal or both NaN (what never happened), infinite where one of them is.
    """
    scale = np.maximum(np.abs(found), np.abs(expected))
    different = np.abs(found - expected) / np.where(scale > 0, scale, 1.0)
    different[np.isnan(found) != np.isnan(expected)] = np.inf
    return np.nan_to_num(different, nan=0.0, posinf=np.inf)


class _Batches:
    """The iterations of one replica in order, the entries of each by request."""

    def __init__(self, log: IterationLog, replica: int) -> None:
        self._iterations = log.iterations[log.iterations["replica"] == replica]
        counts = self._iterations["num_entries"].astype(np.int64)
        self._ends = np.cumsum(counts)
        positions = np.repeat(self._iterations["first_entry"] - self._ends + counts, counts)
        entries = log.entries[positions + np.arange(len(positions))]
        batch = np.repeat(np.arange(len(counts)), counts)
        by_request = np.lexsort((entries["request"], batch))
        self._entries = np.column_stack([entries[name][by_request] for name in ENTRY_FIELDS]).astype(np.int64)

    def __len__(self) -> int:
        return len(self._iterations)

    def entries(self, batch: int) -> npt.NDArray[np.int64]:
        """(num_entries, ENTRY_FIELDS)."""
        return self._entries[self._ends[batch - 1] if batch else 0 : self._ends[batch]]

    def first_difference(self, other: "_Batches") -> int | None:
        """The first batch that is not in both with the same entries."""
        both = min(len(self), len(other))
        for batch in range(both):
            if not np.array_equal(self.entries(batch), other.entries(batch)):
                return batch
        return both if len(self) != len(other) else None

    def time_difference(self, other: "_Batches", batches: int) -> float:
        """The largest relative difference of start, end and duration of the first `batches`."""
        mine, theirs = self._iterations[:batches], other._iterations[:batches]
        return max(
            _most(relative_differences(theirs["start_s"], mine["start_s"])),
            _most(relative_differences(theirs["end_s"], mine["end_s"])),
            _most(relative_differences(theirs["end_s"] - theirs["start_s"], mine["end_s"] - mine["start_s"])),
        )

    def start_s(self, batch: int) -> float:
        """Infinite after the last one."""
        return float(self._iterations["start_s"][batch]) if batch < len(self) else float("inf")

    def describe(self, batch: int) -> str:
        """Start and entries in words."""
        if batch >= len(self):
            return "no such batch"
        entries = [
            f"{request}:{tokens}:{computed}{'p' * prefill}"
            for request, tokens, computed, prefill in self.entries(batch)
        ]
        return f"at {self.start_s(batch):.9g} s: {' '.join(entries)}"


def _most(values: Floats) -> float:
    return float(values.max(initial=0.0))
