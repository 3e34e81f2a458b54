"""Chrome trace events: the fields that the format requires, and what happened where and when."""

import gzip
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.log import ENTRY, ITERATION, PREEMPTION, RECOMPUTE, IterationLog
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.trace_events import Event, trace_events, write_trace
from servegym.experiments.validation.reference_run import read_reference_run

REQUIRED = {
    "M": {"name", "pid", "tid", "args"},
    "X": {"name", "ts", "dur", "pid", "tid"},
    "C": {"name", "ts", "pid", "args"},
    "i": {"name", "ts", "pid", "tid", "s"},
    "s": {"name", "cat", "id", "ts", "pid", "tid"},
    "t": {"name", "cat", "id", "ts", "pid", "tid"},
    "f": {"name", "cat", "id", "ts", "pid", "tid", "bp"},
}
"""Fields of each phase in the "Trace Event Format"; `bp` binds a flow to the slice around it."""


def results(arrival_s: list[float], replica: list[int], finish_s: list[float]) -> Results:
    count = len(arrival_s)
    finish = np.array(finish_s)
    return Results.all_finished(
        arrival_s=np.array(arrival_s),
        prompt_tokens=np.full(count, 20),
        output_tokens=np.full(count, 3),
        replica=np.array(replica),
        scheduled_s=finish,
        first_token_s=finish,
        finish_s=finish,
        preemptions=np.zeros(count, int),
        hit_tokens=np.zeros(count, int),
    )


def small() -> tuple[Results, IterationLog]:
    """Replica 1 serves requests 0 and 1, which is preempted at 0.2 s and comes back; request 2 is lost."""
    iterations = [
        (0.1, 0.2, 0, 1, 2, 21, 1, 3),
        (0.2, 0.3, 2, 1, 1, 1, 1, 2),
        (0.3, 0.4, 3, 1, 1, 22, 0, 2),
        (0.6, 0.7, 4, 0, 1, 20, 0, 2),
    ]
    entries = [(0, 1, 20, 0, False), (1, 20, 0, 16, True), (0, 1, 21, 0, False), (1, 22, 0, 0, True)]
    entries += [(3, 20, 0, 0, True)]
    log = IterationLog.sorted(
        np.array(iterations, ITERATION),
        np.array(entries, ENTRY),
        np.array([(0.2, 1, 1, RECOMPUTE)], PREEMPTION),
    )
    return results([0.0, 0.05, 0.05, 0.6], [1, 1, 1, 0], [0.3, 0.4, np.nan, 0.7]), log


def written(path: Path, *arguments: Any) -> list[Event]:
    count = write_trace(path, trace_events(*arguments))
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    events = json.loads(text)["traceEvents"]
    assert len(events) == count
    assert list(path.parent.iterdir()) == [path]
    return events


def check(events: list[Event], num_replicas: int) -> None:
    """What holds for every trace."""
    last_ts: dict[Any, int] = defaultdict(int)
    open_until: dict[int, int] = defaultdict(int)
    flows: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    slices: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        assert set(event) >= REQUIRED[event["ph"]]
        assert isinstance(event["ts"], int) and event["ts"] >= 0
        track = event["name"] if event["ph"] == "C" else event["tid"]
        if event["ph"] != "M":
            assert event["ts"] >= last_ts[track]
            last_ts[track] = event["ts"]
        if event["ph"] == "X":
            assert event["dur"] > 0
            assert event["ts"] >= open_until[track], "slices of a track overlap"
            open_until[track] = event["ts"] + event["dur"]
            slices[track].append((event["ts"], open_until[track]))
        if event["ph"] in "stf":
            assert slices[track][-1][0] <= event["ts"] < slices[track][-1][1], "a flow outside of a slice"
            flows[event["id"]].append((event["ts"], event["ph"], track))
        if event["ph"] == "C":
            assert all(value >= 0 for value in event["args"].values())
    for steps in flows.values():
        times, phases, _ = zip(*sorted(steps, key=lambda step: step[0]), strict=True)
        assert "".join(phases) == "s" + "t" * (len(steps) - 2) + "f"
        assert times[0] < times[-1]
    named = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert sorted(named.values()) == sorted(["router", *(f"replica {i}" for i in range(num_replicas))])
    assert set(slices) <= set(named)


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_small_run(tmp_path: Path, name: str) -> None:
    events = written(tmp_path / name, *small(), 2, "a title")
    check(events, 2)
    tracks = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    slices = [e for e in events if e["ph"] == "X" and e["tid"] == tracks["replica 1"]]
    assert [(e["name"], e["ts"], e["dur"], e["args"]["batch"]) for e in slices] == [
        ("mixed", 100_000, 100_000, "0:1:20 1:20:0ph16"),
        ("decode", 200_000, 100_000, "0:1:21"),
        ("prefill", 300_000, 100_000, "1:22:0p"),
    ]
    assert slices[0]["args"] | {"batch": ""} == {
        "tokens": 21, "decodes": 1, "prefills": 1, "kv_used_blocks": 3, "batch": "",
    }  # fmt: skip
    assert [(e["ts"], e["tid"], e["name"]) for e in events if e["ph"] == "i"] == [
        (200_000, tracks["replica 1"], "request 1 preempted")
    ]
    flows = [(e["id"], e["ph"], e["ts"], e["tid"]) for e in events if e["ph"] in "stf"]
    assert [flow for flow in sorted(flows, key=lambda flow: flow[2]) if flow[0] == 1] == [
        (1, "s", 50_000, tracks["router"]),
        (1, "t", 150_000, tracks["replica 1"]),
        (1, "f", 350_000, tracks["replica 1"]),
    ]
    assert all(flow[0] != 2 for flow in flows)
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {"a title"}
    counters = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            counters[event["name"]].append((event["ts"], *event["args"].values()))
    assert counters == {
        "replica 0: KV blocks in use": [(600_000, 2), (700_000, 0)],
        "replica 1: KV blocks in use": [(100_000, 3), (200_000, 2), (300_000, 2), (400_000, 0)],
        "replica 0: requests waiting": [(600_000, 0)],
        "replica 1: requests waiting": [
            (0, 1), (50_000, 2), (100_000, 0), (200_000, 1), (300_000, 0),
        ],
    }  # fmt: skip


def test_a_run_of_vidur_with_scarce_memory(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    run = read_reference_run(real_data("../reference/vidur") / "sarathi_1r_kv400")
    shown = results(run.workload.arrival_s.tolist(), run.replica.tolist(), run.finish_s.tolist())
    events = written(tmp_path / "trace.json", shown, run.log, 1, run.name)
    check(events, 1)
    iterations = [e for e in events if e["ph"] == "X" and e["cat"] == "iteration"]
    assert len(iterations) == len(run.log.iterations)
    assert sum(e["dur"] for e in iterations) == pytest.approx(
        1e6 * (run.log.iterations["end_s"] - run.log.iterations["start_s"]).sum(), rel=1e-4
    )
    ends = {e["id"]: e["ts"] for e in events if e["ph"] == "f"}
    assert len(ends) == run.workload.num_requests
    assert all(ends[i] < 1e6 * finish_s for i, finish_s in enumerate(run.finish_s))


def test_nothing_is_left_of_a_trace_that_fails(tmp_path: Path) -> None:
    def broken() -> Any:
        yield {"ph": "M"}
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_trace(tmp_path / "trace.json", broken())
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_trace(tmp_path / "file" / "trace.json", iter(()))
    with pytest.raises(InputError, match="is a folder"):
        write_trace(tmp_path, iter(()))
