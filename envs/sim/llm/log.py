"""The log of iterations: what every iteration of a simulation served, and who was preempted.

Compiled code cannot grow arrays, and a simulation is deterministic. So it runs twice: with `counting_log`,
which only counts, and with `recording_log`, which has room for exactly what was counted.
docs/simulator.md, "Log of iterations", says what is recorded.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import kernel
from servegym.costmodels.output_file import output_file

ITERATION = np.dtype(
    [
        ("start_s", np.float64),
        ("end_s", np.float64),
        ("first_entry", np.int64),  # its entries stand together
        ("replica", np.int32),
        ("num_entries", np.int32),
        ("tokens", np.int32),  # of the whole batch
        ("decodes", np.int32),  # entries that are decodes
        ("kv_used_blocks", np.int32),  # while it runs
    ],
    align=True,
)
"""One iteration of one replica."""

ENTRY = np.dtype(
    [
        ("request", np.int32),
        ("tokens", np.int32),  # given to it in this iteration
        ("computed", np.int32),  # with KV entries before, prefix hits included
        ("hit_tokens", np.int32),  # found in the prefix cache, if it was admitted in this iteration
        ("is_prefill", np.bool_),
    ],
    align=True,
)
"""One request in one iteration, in the order in which they were scheduled."""

PREEMPTION = np.dtype(
    [("time_s", np.float64), ("replica", np.int32), ("request", np.int32), ("kind", np.int8)], align=True
)
"""A running request that lost its place, at the start of the iteration that it is not part of."""

_PARTS = {"iterations": ITERATION, "entries": ENTRY, "preemptions": PREEMPTION}

RECOMPUTE, SWAP = 0, 1
"""Kinds of preemption: KV dropped, or moved to the host."""

_ITERATIONS, _ENTRIES, _PREEMPTIONS, _OPEN = range(4)  # OPEN: first entry of the iteration being scheduled


class Log(NamedTuple):
    """The log as compiled code writes it. Everything is counted; what exceeds the arrays is not written.

    counts: int64 (4,); iterations: ITERATION; entries: ENTRY; preemptions: PREEMPTION.
    """

    enabled: int  # 1 or 0
    counts: np.ndarray
    iterations: np.ndarray
    entries: np.ndarray
    preemptions: np.ndarray


def no_log() -> Log:
    """A log that is switched off."""
    return _log(False, 0, 0, 0)


def counting_log() -> Log:
    """A log without room: it counts."""
    return _log(True, 0, 0, 0)


def recording_log(counted: Log) -> Log:
    """An empty log with room for what `counted` has counted."""
    return _log(True, *counted.counts[:_OPEN].tolist())


def _log(enabled: bool, iterations: int, entries: int, preemptions: int) -> Log:
    return Log(
        int(enabled),
        np.zeros(4, np.int64),
        np.zeros(iterations, ITERATION).view(np.recarray),
        np.zeros(entries, ENTRY).view(np.recarray),
        np.zeros(preemptions, PREEMPTION).view(np.recarray),
    )


@kernel
def log_entry(
    log: Log, request_id: int, tokens: int, computed: int, hit_tokens: int, is_prefill: bool
) -> None:
    """Adds a request to the iteration being scheduled; `log_iteration` closes it."""
    if not log.enabled:
        return
    at = log.counts[_ENTRIES]
    log.counts[_ENTRIES] = at + 1
    if at < log.entries.shape[0]:
        entry = log.entries[at]
        entry.request = request_id
        entry.tokens = tokens
        entry.computed = computed
        entry.hit_tokens = hit_tokens
        entry.is_prefill = is_prefill


@kernel
def retract_entry(log: Log, request_id: int) -> None:
    """Takes a request, which must be there, out of the iteration being scheduled."""
    if not log.enabled:
        return
    last = log.counts[_ENTRIES] - 1
    log.counts[_ENTRIES] = last
    if last >= log.entries.shape[0]:
        return
    at = last
    while log.entries[at].request != request_id:
        at -= 1
    while at < last:
        log.entries[at] = log.entries[at + 1]
        at += 1


@kernel
def log_iteration(
    log: Log, replica_id: int, start_s: float, end_s: float, tokens: int, decodes: int, kv_used_blocks: int
) -> None:
    """Records an iteration with the entries since the one recorded before."""
    if not log.enabled:
        return
    at = log.counts[_ITERATIONS]
    first, after = log.counts[_OPEN], log.counts[_ENTRIES]
    log.counts[_ITERATIONS] = at + 1
    log.counts[_OPEN] = after
    if at < log.iterations.shape[0]:
        iteration = log.iterations[at]
        iteration.start_s = start_s
        iteration.end_s = end_s
        iteration.first_entry = first
        iteration.replica = replica_id
        iteration.num_entries = after - first
        iteration.tokens = tokens
        iteration.decodes = decodes
        iteration.kv_used_blocks = kv_used_blocks


@kernel
def void_iteration(log: Log, replica_id: int) -> None:
    """Takes back the last iteration of a replica, which has failed before its end."""
    if not log.enabled:
        return
    at = min(log.counts[_ITERATIONS], log.iterations.shape[0]) - 1
    while at >= 0 and log.iterations[at].replica != replica_id:
        at -= 1
    if at >= 0:
        log.iterations[at].end_s = np.nan


@kernel
def log_preemption(log: Log, time_s: float, replica_id: int, request_id: int, kind: int) -> None:
    """Records a preemption of `kind` RECOMPUTE or SWAP."""
    if not log.enabled:
        return
    at = log.counts[_PREEMPTIONS]
    log.counts[_PREEMPTIONS] = at + 1
    if at < log.preemptions.shape[0]:
        preemption = log.preemptions[at]
        preemption.time_s = time_s
        preemption.replica = replica_id
        preemption.request = request_id
        preemption.kind = kind


@dataclass(frozen=True, eq=False)
class IterationLog:
    """A finished log, by start time, at one instant by replica.

    iterations: ITERATION (I,); entries: ENTRY (E,), those of iteration 0 first; preemptions: PREEMPTION (P,).
    """

    iterations: np.ndarray
    entries: np.ndarray
    preemptions: np.ndarray

    @classmethod
    def of(cls, log: Log) -> "IterationLog":
        """Sorts what a simulation has recorded. ValueError where the log had no room for all of it."""
        recorded = [len(log.iterations), len(log.entries), len(log.preemptions)]
        if log.counts[:_OPEN].tolist() != recorded:
            raise ValueError(
                f"the log has room for {recorded}, and {log.counts[:_OPEN].tolist()} were counted"
            )
        iterations, entries, preemptions = (np.array(part) for part in log[2:])
        return cls.sorted(iterations[~np.isnan(iterations["end_s"])], entries, preemptions)

    @classmethod
    def sorted(cls, iterations: np.ndarray, entries: np.ndarray, preemptions: np.ndarray) -> "IterationLog":
        """The log of iterations in any order, each with its entries from `first_entry` on."""
        iterations = iterations[np.lexsort((iterations["replica"], iterations["start_s"]))]
        counts = iterations["num_entries"].astype(np.int64)
        first = np.cumsum(counts) - counts
        entries = entries[np.repeat(iterations["first_entry"] - first, counts) + np.arange(counts.sum())]
        iterations["first_entry"] = first
        order = np.lexsort((preemptions["replica"], preemptions["time_s"]))
        return cls(iterations, entries, preemptions[order])

    def entries_of(self, iteration: int) -> np.ndarray:
        """ENTRY (num_entries,): the batch of one iteration."""
        first = int(self.iterations["first_entry"][iteration])
        return self.entries[first : first + int(self.iterations["num_entries"][iteration])]

    def save(self, path: Path) -> None:
        """Writes a compressed `.npz` that is there as a whole or not at all."""
        arrays = {name: getattr(self, name) for name in _PARTS}
        with output_file(path) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "IterationLog":
        """Reads what `save` has written. InputError where `path` holds something else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in _PARTS}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: is no log of iterations ({error})") from error
        for name, dtype in _PARTS.items():
            if arrays[name].dtype != dtype:
                raise InputError(f"{path}: {name} is of another type than a log of iterations has")
        return cls(**arrays)
