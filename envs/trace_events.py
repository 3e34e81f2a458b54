"""A simulation as Chrome trace events, for ui.perfetto.dev and chrome://tracing.

Format: Google, "Trace Event Format" (2016), in its JSON object form. Times are whole microseconds, so that
the end of an iteration and the start of the next are the same number in every reader.
"""

import gzip
import heapq
import io
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from servegym.costmodels.output_file import output_file
from servegym.envs.sim.llm.log import SWAP, IterationLog
from servegym.envs.sim.llm.simulate import Results

Event = dict[str, Any]

PROCESS, ROUTER = 1, 1
"""Numbers of the only process and of the router's track; replica `i` has track `ROUTER + 1 + i`."""

FLOW = "request"
"""Name and category of all flows; their id is the request's number."""


def trace_events(results: Results, log: IterationLog, num_replicas: int, title: str) -> Iterator[Event]:
    """Events of a simulation with its log, track by track, each in order of time.

    A track per replica: iterations (their batch as `request:tokens:computed before`, with p for prefill and
    hN for N tokens from the prefix cache) and preemptions as instants. Counters per replica: KV blocks in
    use and requests waiting. A router's track with the arrivals. A flow per request from its arrival
    through the middle of each of its iterations, the last one included. Of a fleet with roles or failures
    neither waits after the first, nor KV kept for a transfer, nor image encoding is drawn.
    """
    yield from _names(num_replicas, title)
    ends = _flow_ends(results, log)
    yield from _arrivals(results, ends)
    for replica in range(num_replicas):
        yield from heapq.merge(
            _preemptions(log, replica), _iterations(log, replica, ends), key=lambda event: event["ts"]
        )
        yield from _kv_counter(log, replica)
    yield from _waiting_counters(results, log, num_replicas)


def write_trace(path: Path, events: Iterable[Event]) -> int:
    """Streams events to a JSON file (compressed where `path` ends in .gz) and returns their number.

    The file is there as a whole or not at all. InputError where it cannot be written.
    """
    count = 0
    with output_file(path) as plain:
        zipped = gzip.GzipFile(fileobj=plain, mode="wb", mtime=0) if path.suffix == ".gz" else None
        with io.TextIOWrapper(zipped or plain, encoding="utf-8") as file:
            file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
            for event in events:
                file.write(",\n" if count else "")
                file.write(json.dumps(event, separators=(",", ":"), allow_nan=False))
                count += 1
            file.write("\n]}\n")
    return count


def _names(num_replicas: int, title: str) -> Iterator[Event]:
    yield _metadata("process_name", 0, name=title)
    tracks = ["router", *(f"replica {replica}" for replica in range(num_replicas))]
    for track, name in enumerate(tracks, start=ROUTER):
        yield _metadata("thread_name", track, name=name)
        yield _metadata("thread_sort_index", track, sort_index=track)


def _metadata(what: str, track: int, **arguments: Any) -> Event:
    return {"ph": "M", "ts": 0, "pid": PROCESS, "tid": track, "name": what, "args": arguments}


def _flow_ends(results: Results, log: IterationLog) -> np.ndarray:
    """Of each request (N,) its last entry in the log, -1 where it was never scheduled."""
    ends = np.full(len(results.arrival_s), -1)
    np.maximum.at(ends, log.entries["request"], np.arange(len(log.entries)))
    return ends


def _arrivals(results: Results, ends: np.ndarray) -> Iterator[Event]:
    """One slice for all requests that arrive within a microsecond; their flows start in it."""
    arrival_s = results.arrival_s.tolist()
    order = np.argsort(results.arrival_s, kind="stable")
    order = order[~np.isnan(results.arrival_s[order])].tolist()  # a follow-up may never come
    for ts, group in groupby(order, key=lambda request: _microseconds(arrival_s[request])):
        requests = list(group)
        yield {
            "ph": "X",
            "ts": ts,
            "dur": 1,
            "pid": PROCESS,
            "tid": ROUTER,
            "name": f"request {requests[0]}" if len(requests) == 1 else f"{len(requests)} requests",
            "cat": "arrival",
            "args": {
                f"request {request}": f"{results.prompt_tokens[request]} prompt tokens, "
                f"{results.output_tokens[request]} output tokens, to replica {results.replica[request]}"
                for request in requests
            },
        }
        for request in requests:
            if ends[request] >= 0:
                yield _flow("s", ts, ROUTER, request)


def _iterations(log: IterationLog, replica: int, ends: np.ndarray) -> Iterator[Event]:
    track = ROUTER + 1 + replica
    for index in np.flatnonzero(log.iterations["replica"] == replica).tolist():
        iteration = log.iterations[index]
        entries = log.entries_of(index)
        start, end = _microseconds(iteration["start_s"]), _microseconds(iteration["end_s"])
        decodes = int(iteration["decodes"])
        kind = "mixed" if 0 < decodes < len(entries) else "decode" if decodes else "prefill"
        yield {
            "ph": "X",
            "ts": start,
            "dur": end - start,
            "pid": PROCESS,
            "tid": track,
            "name": kind,
            "cat": "iteration",
            "args": {
                "tokens": int(iteration["tokens"]),
                "decodes": decodes,
                "prefills": len(entries) - decodes,
                "kv_used_blocks": int(iteration["kv_used_blocks"]),
                "batch": " ".join(map(_describe, entries.tolist())),
            },
        }
        first = int(iteration["first_entry"])
        for position, request in enumerate(entries["request"].tolist(), start=first):
            phase = "f" if ends[request] == position else "t"
            yield _flow(phase, start + (end - start) // 2, track, request)


def _describe(entry: tuple[int, int, int, int, bool]) -> str:
    request, tokens, computed, hit_tokens, is_prefill = entry
    return f"{request}:{tokens}:{computed}{'p' * is_prefill}{f'h{hit_tokens}' if hit_tokens else ''}"


def _flow(phase: str, ts: int, track: int, request: int) -> Event:
    event: Event = {
        "ph": phase,
        "ts": ts,
        "pid": PROCESS,
        "tid": track,
        "id": request,
        "name": FLOW,
        "cat": FLOW,
    }
    if phase == "f":
        event["bp"] = "e"  # it ends in the slice around it, not in the next one
    return event


def _preemptions(log: IterationLog, replica: int) -> Iterator[Event]:
    here = log.preemptions[log.preemptions["replica"] == replica]
    for preemption in here:
        kind = "swapped out" if preemption["kind"] == SWAP else "preempted"
        yield {
            "ph": "i",
            "s": "t",  # drawn over its own track only
            "ts": _microseconds(preemption["time_s"]),
            "pid": PROCESS,
            "tid": ROUTER + 1 + replica,
            "name": f"request {preemption['request']} {kind}",
            "cat": "preemption",
        }


def _kv_counter(log: IterationLog, replica: int) -> Iterator[Event]:
    """At the start of every iteration; 0 from the end of one after which the replica has nothing to do."""
    here = log.iterations[log.iterations["replica"] == replica]
    following = np.append(here["start_s"], np.inf)[1:]
    for iteration, next_s in zip(here, following, strict=True):
        yield _counter(replica, "KV blocks in use", iteration["start_s"], int(iteration["kv_used_blocks"]))
        if next_s > iteration["end_s"]:
            yield _counter(replica, "KV blocks in use", iteration["end_s"], 0)


def _waiting_counters(results: Results, log: IterationLog, num_replicas: int) -> Iterator[Event]:
    """From arrival or preemption to the next iteration with the request; the replica is that one's."""
    replica, joined_s, left_s = _waits(results, log)
    for each in range(num_replicas):
        here = replica == each
        times = np.concatenate([joined_s[here], left_s[here]])
        steps = np.repeat([1, -1], here.sum())
        distinct, index = np.unique(times, return_inverse=True)
        waiting = np.cumsum(np.bincount(index, steps, len(distinct))).astype(int)
        for time_s, count in zip(distinct, waiting.tolist(), strict=True):
            yield _counter(each, "requests waiting", time_s, count)


def _waits(results: Results, log: IterationLog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every wait that ended in an iteration: replica, begin and end (s), each (W,)."""
    num_requests = len(results.arrival_s)
    iteration = np.repeat(np.arange(len(log.iterations)), log.iterations["num_entries"])
    request = np.concatenate([np.arange(num_requests), log.preemptions["request"], log.entries["request"]])
    time_s = np.concatenate(
        [results.arrival_s, log.preemptions["time_s"], log.iterations["start_s"][iteration]]
    )
    is_entry = np.arange(len(request)) >= len(request) - len(log.entries)
    order = np.lexsort((is_entry, time_s, request))
    request, time_s, is_entry = request[order], time_s[order], is_entry[order]
    served = ~is_entry[:-1] & is_entry[1:] & (request[:-1] == request[1:])
    begin = np.flatnonzero(served)
    first_entry = order[begin + 1] - (len(order) - len(log.entries))
    replica = log.iterations["replica"][iteration[first_entry]]
    return replica, time_s[begin], time_s[begin + 1]


def _counter(replica: int, what: str, time_s: float, value: int) -> Event:
    return {
        "ph": "C",
        "ts": _microseconds(time_s),
        "pid": PROCESS,
        "name": f"replica {replica}: {what}",
        "args": {what: value},
    }


def _microseconds(time_s: float) -> int:
    return round(time_s * 1e6)
