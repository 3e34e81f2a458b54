"""Read back the decisions that a router in a real serving system has logged.

The format is that of `agents/serving/telemetry/decision_log.py`: JSON lines, with base64 for arrays.
"""

import binascii
import gzip
import json
import math
import reprlib
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.workload import MAX_TOKENS

VERSION = 1

UNKNOWN_TOKENS = -1


class Ended(NamedTuple):
    """What became of a request; output_tokens: UNKNOWN_TOKENS, ttft_s: NaN, where they are not known."""

    output_tokens: int
    ttft_s: float
    latency_s: float
    ok: bool


@dataclass(slots=True)
class LoggedDecision:
    """Where a request went, and what the policy saw then.

    at_s: since 1970. arrived_s: the same of the first decision about this request, if it was sent anew.
    request: float32 (F,), by the features of the log. session: -1 for none. replicas: names of the rows.
    rows: float32 (R, F), None where they were not logged. shadow: a name, or empty. age_s: of the replicas'
    reports that were used, in the mean; NaN without one. ended: None where it is not known, or another
    decision about the request came after.
    """

    at_s: float
    arrived_s: float
    request_id: str
    request: np.ndarray
    session: float
    prefixes: tuple[int, ...]
    replica: str
    replicas: tuple[str, ...]
    rows: np.ndarray | None
    policy: str
    fallback: str
    shadow: str
    took_s: float
    age_s: float = math.nan
    ended: Ended | None = None


@dataclass
class DecisionLogContents:
    """Decisions in the order of the log. cut_off: lines that somebody was stopped in the middle of."""

    request_features: tuple[str, ...] = ()
    replica_features: tuple[str, ...] = ()
    prefix_block_tokens: int = 0
    setting: dict[str, float] = field(default_factory=dict)
    decisions: list[LoggedDecision] = field(default_factory=list)
    refused: int = 0
    cut_off: int = 0

    def column(self, name: str) -> np.ndarray:
        """float64 (N,): a feature of all requests."""
        at = self.request_features.index(name)
        return np.array([decision.request[at] for decision in self.decisions], np.float64)


def read_decision_log(path: str | Path) -> DecisionLogContents:
    """A log, the files included that it has been renamed to (`path.1` the newest of them).

    InputError, by file, line and value, for what cannot be read or is no log, for one of another version, and
    where files contradict each other. A line that is not JSON was cut off, and is counted.
    """
    contents = DecisionLogContents()
    under_way: dict[str, LoggedDecision] = {}
    for file in _files(Path(path)):
        names: tuple[str, ...] = ()
        begun = False
        for line, text in _lines(file):
            where = f"{file}, line {line}"
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                contents.cut_off += 1
                continue
            if not isinstance(record, dict):
                raise _wrong(where, "line", record, "a JSON object")
            if "servegym_decisions" in record:
                _read_header(where, record, contents)
                begun, names = True, ()
                continue
            if not begun:
                raise _wrong(where, "line", record, "the header of a log of decisions before all others")
            if "replicas" in record:
                names = tuple(map(str, _of(where, record, "replicas", list)))
            elif "refused" in record:
                contents.refused += 1
            elif "ended_s" in record:
                decision = under_way.pop(_of(where, record, "id", str), None)
                if decision is not None:
                    decision.ended = _read_ended(where, record)
            else:
                decision = _read_decision(where, record, names, contents)
                before = under_way.get(decision.request_id)
                if before is not None:
                    decision.arrived_s = before.arrived_s
                under_way[decision.request_id] = decision
                contents.decisions.append(decision)
    if not contents.decisions:
        raise InputError(f"{path}: holds no decision, allowed: a log with at least one")
    return contents


def _files(path: Path) -> list[Path]:
    """The file and those that it was renamed to before, the oldest first."""
    numbers = [each.name[len(path.name) + 1 :] for each in path.parent.glob(f"{path.name}.*")]
    older = sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)
    files = [path.with_name(f"{path.name}.{number}") for number in older]
    return [*files, path] if path.exists() or not files else files


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    yield line, text
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}), allowed: a readable file") from None


def _read_header(where: str, record: dict[str, Any], contents: DecisionLogContents) -> None:
    if record["servegym_decisions"] != VERSION:
        raise _wrong(where, "servegym_decisions", record["servegym_decisions"], str(VERSION))
    said = (
        tuple(map(str, _of(where, record, "request_features", list))),
        tuple(map(str, _of(where, record, "replica_features", list))),
        _of(where, record, "prefix_block_tokens", int),
    )
    if said[2] < 1:
        raise _wrong(where, "prefix_block_tokens", said[2], "at least 1")
    for name in ("prompt_tokens", "predicted_output_tokens", "priority"):
        if name not in said[0]:
            raise _wrong(where, "request_features", said[0], f"names, {name} among them")
    known = (contents.request_features, contents.replica_features, contents.prefix_block_tokens)
    if contents.request_features and said != known:
        raise _wrong(where, "header", said, f"{known} as before")
    contents.request_features, contents.replica_features, contents.prefix_block_tokens = said
    setting = _of(where, record, "setting", dict)
    contents.setting = {str(name): _number(where, setting, name) for name in setting}


def _read_decision(
    where: str, record: dict[str, Any], names: tuple[str, ...], contents: DecisionLogContents
) -> LoggedDecision:
    features = _of(where, record, "request", list)
    request = np.array([_number(where, {"request": each}, "request") for each in features], np.float32)
    if len(request) != len(contents.request_features):
        raise _wrong(where, "request", features, f"{len(contents.request_features)} numbers")
    at_s = _number(where, record, "at_s")
    rows = None
    if "rows" in record:
        rows = _array(where, record, "rows", "<f4")
        shape = (len(names), len(contents.replica_features))
        if rows.size != shape[0] * shape[1]:
            raise _wrong(where, "rows", rows, f"{shape[0]} rows of {shape[1]} numbers")
        rows = rows.reshape(shape)
    replica = _of(where, record, "replica", str)
    if rows is not None and replica not in names:
        raise _wrong(where, "replica", replica, "one of the replicas named before")
    prefixes: list[int] = []
    if "prefixes" in record:
        prefixes = _array(where, record, "prefixes", "<u8").tolist()
    return LoggedDecision(
        at_s=at_s,
        arrived_s=at_s,
        request_id=_of(where, record, "id", str),
        request=request,
        session=_number(where, record, "session") if "session" in record else -1.0,
        prefixes=tuple(prefixes),
        replica=replica,
        replicas=names,
        rows=rows,
        policy=_of(where, record, "policy", str),
        fallback=_of(where, record, "fallback", str) if "fallback" in record else "",
        shadow=_of(where, record, "shadow", str) if "shadow" in record else "",
        took_s=_number(where, record, "took_s"),
        age_s=_number(where, record, "age_s") if "age_s" in record else math.nan,
    )


def _read_ended(where: str, record: dict[str, Any]) -> Ended:
    ttft_s = record.get("ttft_s")
    output_tokens = UNKNOWN_TOKENS
    if record.get("output_tokens", 0) is not None:
        output_tokens = _of(where, record, "output_tokens", int)
        if not 0 <= output_tokens <= MAX_TOKENS:
            raise _wrong(where, "output_tokens", output_tokens, f"from 0 to {MAX_TOKENS}, or null")
    return Ended(
        output_tokens,
        float("nan") if ttft_s is None else _number(where, record, "ttft_s"),
        _number(where, record, "latency_s"),
        _of(where, record, "ok", bool),
    )


def _of(where: str, record: dict[str, Any], key: str, kind: type) -> Any:
    value = record.get(key)
    if type(value) is not kind:
        raise _wrong(where, key, value, f"of type {kind.__name__}")
    return value


def _number(where: str, record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    if type(value) not in (int, float) or not abs(value) < 1e300:  # type: ignore[arg-type]
        raise _wrong(where, key, value, "a finite number")
    return float(value)  # type: ignore[arg-type]


def _array(where: str, record: dict[str, Any], key: str, dtype: str) -> np.ndarray:
    try:
        array: np.ndarray = np.frombuffer(b64decode(record[key], validate=True), dtype)
    except (TypeError, ValueError, binascii.Error):
        raise _wrong(where, key, record[key], "base64 of numbers") from None
    return array


def _wrong(where: str, key: str, value: object, allowed: str) -> InputError:
    return InputError(f"{where}: {key} is {reprlib.repr(value)}, allowed: {allowed}")
