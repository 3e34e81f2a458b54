"""Logs of decisions as workloads: what is taken from them, and what is refused."""

import gzip
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import read_trace
from servegym.envs.workloads.decision_log import read_decision_log

HEADER = {
    "servegym_decisions": 1,
    "request_features": ["prompt_tokens", "predicted_output_tokens", "gap_s", "priority"],
    "replica_features": ["available", "running"],
    "prefix_block_tokens": 64,
    "setting": {},
}
NAMES = {"replicas": ["a", "b"]}


def _base64(values: list[Any], dtype: str) -> str:
    return b64encode(np.array(values, dtype).tobytes()).decode()


def decision(
    at_s: float, name: str, prompt: float = 100, predicted: float = 0, priority: float = 0, **more: Any
):  # type: ignore[no-untyped-def]
    """A line, without rows."""
    return {
        "at_s": at_s,
        "id": name,
        "request": [prompt, predicted, 0.0, priority],
        "replica": "a",
        "policy": "p",
        "took_s": 1e-5,
        **more,
    }


def ended(name: str, tokens: int | None = 5, ok: bool = True) -> dict[str, Any]:
    """The line of a request's end."""
    return {"ended_s": 9.0, "id": name, "output_tokens": tokens, "ttft_s": 0.1, "latency_s": 0.2, "ok": ok}


def write(path: Path, *lines: Any) -> Path:
    """A log of these lines: objects, or texts as they are."""
    text = "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_those_who_were_served_in_the_order_of_their_arrival(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path / name,
        HEADER,
        NAMES,
        decision(1000.0, "first", 10.4),
        decision(1003.0, "third", 30, priority=-2),
        decision(1002.5, "second", 20),  # the clock was set back
        decision(1004.0, "failed"),
        decision(1005.0, "empty"),
        {"at_s": 1005.5, "refused": "nobody"},
        decision(1006.0, "under way"),
        decision(1007.0, "not counted"),
        ended("not counted", None),
        ended("third", 7),
        ended("failed", 3, ok=False),
        ended("first"),
        ended("second", 6),
        ended("empty", 0),
        ended("from an older log"),
    )
    workload = read_trace(path, "decisions")
    assert workload.arrival_s.tolist() == [0.0, 2.5, 3.0]
    assert workload.prompt_tokens.tolist() == [10, 20, 30]
    assert workload.output_tokens.tolist() == [5, 6, 7]
    assert workload.priority is not None and workload.priority.tolist() == [0, 0, -2]
    assert workload.session_id is workload.prefix_ids is workload.predicted_output_tokens is None


def test_sessions_predictions_and_prefixes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log",
        HEADER,
        NAMES,
        decision(0.0, "a", 200, 9.6, session=77.0, prefixes=_base64([11, 12, 13], "<u8")),
        decision(1.0, "b", 50, 1.0),
        decision(2.0, "c", 300, 4.0, session=77.0, prefixes=_base64([11, 12, 14, 15], "<u8")),
        decision(3.0, "d", 65, 4.0, session=5.0, prefixes=_base64([11, 2**63 + 1, 14], "<u8")),
        *map(ended, "abcd"),
    )
    workload = read_trace(path, "decisions")
    assert workload.session_id is not None and workload.session_id.tolist() == [0, 1, 0, 2]
    assert workload.predicted_output_tokens is not None
    assert workload.predicted_output_tokens.tolist() == [10, 1, 4, 4]
    assert workload.prefix_ids is not None and workload.prefix_offsets is not None
    assert workload.prefix_ids.tolist() == [0, 1, 2, 0, 1, 3, 4, 0, 5]  # d has 65 tokens: two blocks at most
    assert workload.prefix_offsets.tolist() == [0, 3, 3, 7, 9]
    assert workload.prefix_block_tokens == 64


def test_a_request_that_was_sent_anew_is_one_request(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log",
        HEADER,
        NAMES,
        decision(0.0, "a"),
        decision(1.0, "b"),
        decision(2.0, "a", replica="b"),
        ended("b"),
        ended("a"),
        decision(5.0, "a", 300),
        ended("a", 8),
    )
    workload = read_trace(path, "decisions")
    assert workload.arrival_s.tolist() == [0.0, 1.0, 5.0]
    assert workload.output_tokens.tolist() == [5, 5, 8]
    made = read_decision_log(path).decisions
    assert [each.ended is None for each in made] == [True, False, False, False]
    assert (made[2].at_s, made[2].arrived_s, made[2].replica) == (2.0, 0.0, "b")


def test_files_that_a_log_was_renamed_to_are_read_before_it(tmp_path: Path) -> None:
    for i, name in enumerate(("log.11", "log.2", "log.1", "log")):
        write(tmp_path / name, HEADER, NAMES, decision(float(i), str(i)), *([ended(str(i - 1))] if i else []))
    write(tmp_path / "log.old", "something else")
    read = read_decision_log(tmp_path / "log")
    assert [each.request_id for each in read.decisions] == ["0", "1", "2", "3"]
    assert [each.ended is None for each in read.decisions] == [False] * 3 + [True]


def test_lines_that_were_cut_off_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "log", HEADER, NAMES, '{"at_s": 12', "", decision(0.0, "a"), ended("a"), '{"en')
    read = read_decision_log(path)
    assert read.cut_off == 2 and len(read.decisions) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no decision"),
        ([HEADER], "holds no decision"),
        ([decision(0.0, "a")], "line 1: line is .*allowed: the header of a log"),
        ([{**HEADER, "servegym_decisions": 2}], "line 1: servegym_decisions is 2, allowed: 1"),
        ([{**HEADER, "prefix_block_tokens": 0}], "prefix_block_tokens is 0"),
        ([{**HEADER, "request_features": ["priority"]}], "prompt_tokens among them"),
        ([{**HEADER, "setting": {"block_size": "x"}}], "block_size is 'x', allowed: a finite number"),
        ([HEADER, {**HEADER, "prefix_block_tokens": 16}], "line 2: header is .* as before"),
        ([HEADER, "[1]"], "line 2: line is .*a JSON object"),
        ([HEADER, {"replicas": 3}], "replicas is 3"),
        ([HEADER, decision("now", "a")], "at_s is 'now'"),  # type: ignore[arg-type]
        ([HEADER, decision(0.0, 7)], "id is 7, allowed: of type str"),  # type: ignore[arg-type]
        ([HEADER, {**decision(0.0, "a"), "request": [1, 2]}], r"request is \[1, 2\], allowed: 4 numbers"),
        ([HEADER, {**decision(0.0, "a"), "request": [1, 2, 3, True]}], "request is True"),
        ([HEADER, NAMES, decision(0.0, "a", rows="?")], r"rows is '\?', allowed: base64"),
        ([HEADER, NAMES, decision(0.0, "a", rows=_base64([1] * 3, "<f4"))], "2 rows of 2 numbers"),
        ([HEADER, NAMES, decision(0.0, "a", prefixes=_base64([1], "<f4"))], "prefixes is"),
        (
            [HEADER, NAMES, decision(0.0, "a", rows=_base64([1] * 4, "<f4"), replica="c")],
            "replica is 'c', allowed: one of the replicas",
        ),
        ([HEADER, decision(0.0, "a"), {**ended("a"), "output_tokens": -1}], "output_tokens is -1"),
        (
            [HEADER, decision(0.0, "a"), {"ended_s": 1.0, "id": "a"}],
            "output_tokens is None, allowed: of type",
        ),
        ([HEADER, decision(0.0, "a"), {**ended("a"), "ok": 1}], "ok is 1, allowed: of type bool"),
        ([HEADER, decision(0.0, "a"), {**ended("a"), "latency_s": 10**400}], "latency_s is 1000"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_decision_log(write(tmp_path / "log", *lines))


def test_a_log_of_a_router_that_saw_no_tokens_is_no_workload(tmp_path: Path) -> None:
    made = [decision(float(i), name) for i, name in enumerate("abcd")]
    path = write(tmp_path / "log", HEADER, *made, ended("a", None), ended("b", None, ok=False), ended("c", 0))
    with pytest.raises(InputError, match="none of 4 requests was served to its end"):
        read_trace(path, "decisions")
    assert [each.ended and each.ended.output_tokens for each in read_decision_log(path).decisions] == [
        -1,
        -1,
        0,
        None,
    ]
    write(path, HEADER, *made, ended("a", None), ended("b", None), ended("c"), ended("d", 3, ok=False))
    with pytest.raises(InputError, match="output_tokens are unknown of 2 of the 3 .*--observed tokens"):
        read_trace(path, "decisions")
    write(path, HEADER, *made, ended("a", None), ended("b", None), ended("c"), ended("d", 3))
    assert read_trace(path, "decisions").output_tokens.tolist() == [5, 3]


def test_a_log_of_nobody_served_is_no_workload_and_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 1 requests was served to its end"):
        read_trace(write(tmp_path / "log", HEADER, decision(0.0, "a")), "decisions")
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        read_decision_log(tmp_path / "nowhere")
