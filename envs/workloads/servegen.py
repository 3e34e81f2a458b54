"""Read ServeGen's client models: per client and window, rate, burstiness and length histograms.

Format and data: https://github.com/alibaba/ServeGen (Xiang et al., ServeGen, NSDI 2026). A client is a pair
of files: `chunk-<i>-trace.csv`, one row a window of 600 s without a header (start in s, requests per s, CV of
the interarrivals, Gamma or Weibull, its shape and scale; no law where the client is idle), and
`chunk-<i>-dataset.json`, one entry a window of 21,600 s: `input_tokens` and `output_tokens`, each a text
`{tokens: probability, ...}`.
"""

import json
import math
import re
import reprlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.client_mix import ClientWindow, LengthHistogram, generate_from_clients
from servegym.envs.workloads.workload import MAX_TOKENS, Workload

RATE_WINDOW_S = 600.0
LENGTH_WINDOW_S = 21600.0

_FILE = re.compile(r"chunk-(\d+)-(trace\.csv|dataset\.json)")

Histograms = dict[float, tuple[LengthHistogram | None, LengthHistogram | None]]


def read_servegen(
    path: str | Path, start_s: float = 0.0, duration_s: float = 3600.0, seed: int = 0
) -> Workload:
    """Requests drawn from ServeGen's clients between `start_s` and `start_s + duration_s` of their trace."""
    return generate_from_clients(
        read_clients(path, start_s, start_s + duration_s), np.random.SeedSequence(seed)
    )


def read_clients(path: str | Path, start_s: float, end_s: float) -> list[ClientWindow]:
    """The windows between these times in which clients were not idle, cut to them; clients in order.

    `path` is a folder with the files of the clients, at any depth, or a tar archive of it. The published
    scale of a law is not used, as its mean is often not 1 / rate. A client without a dataset, or idle in
    it, has no lengths. Raises `InputError` for bad files by line and value, and for files without any
    client at work between these times.
    """
    if not 0 <= start_s < end_s < math.inf:
        raise InputError(f"client windows are taken from {start_s} to {end_s} s, allowed: 0 <= start < end")
    traces: dict[int, list[ClientWindow]] = {}
    lengths: dict[int, Histograms] = {}
    for client, name, content in _client_files(Path(path)):
        if name.endswith(".csv"):
            traces[client] = list(_read_trace(f"{path}: {name}", content, start_s, end_s))
        else:
            lengths[client] = _read_lengths(f"{path}: {name}", content, start_s, end_s)
    windows = [
        _with_lengths(window, lengths.get(client, {}))
        for client in sorted(traces)
        for window in traces[client]
    ]
    if not windows:
        raise InputError(
            f"{path}: no client at work from {start_s:g} to {end_s:g} s, allowed: a folder or tar archive "
            "with files chunk-<i>-trace.csv that have rates there"
        )
    return windows


def read_client_rates(path: str | Path, start_s: float, end_s: float) -> list[ClientWindow]:
    """As `read_clients`, but without lengths: the files of lengths are not looked at."""
    return [
        window
        for _, name, content in _client_files(Path(path))
        if name.endswith(".csv")
        for window in _read_trace(f"{path}: {name}", content, start_s, end_s)
    ]


def _client_files(path: Path) -> Iterator[tuple[int, str, bytes]]:
    """(client, name, content) of every client file."""
    try:
        if path.is_dir():
            for file in sorted(path.rglob("chunk-*")):
                if match := _FILE.fullmatch(file.name):
                    yield int(match[1]), file.name, file.read_bytes()
            return
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if (match := _FILE.fullmatch(name)) and (stream := archive.extractfile(member)):
                    yield int(match[1]), name, stream.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read ({error}), allowed: a folder or tar archive of ServeGen's clients"
        ) from None


def _read_trace(where: str, content: bytes, start_s: float, end_s: float) -> Iterator[ClientWindow]:
    for line, text in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
        if not text.strip():
            continue
        fields = text.split(",")
        if len(fields) != 6:
            raise InputError(f"{where}, line {line}: row has {len(fields)} fields, allowed: 6")
        first_s = _number(f"{where}, line {line}: timestamp", fields[0])
        rate_rps = _number(f"{where}, line {line}: rate", fields[1])
        begin_s, stop_s = max(first_s, start_s), min(first_s + RATE_WINDOW_S, end_s)
        if rate_rps == 0 or begin_s >= stop_s:
            continue
        law = fields[3].strip().lower()
        if law not in ("gamma", "weibull"):
            raise InputError(f"{where}, line {line}: pattern is {fields[3]!r}, allowed: Gamma, Weibull")
        shape = _number(f"{where}, line {line}: shape", fields[4])
        if shape == 0:
            raise InputError(f"{where}, line {line}: shape is {fields[4]!r}, allowed: above 0")
        yield ClientWindow(begin_s, stop_s, rate_rps, law, shape)


def _read_lengths(where: str, content: bytes, start_s: float, end_s: float) -> Histograms:
    """Histograms of prompt and output by the start of their window, of windows between these times only."""
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error}), allowed: an object by window") from None
    if not isinstance(entries, dict):
        raise InputError(f"{where}: is {reprlib.repr(entries)}, allowed: an object by window")
    histograms: Histograms = {}
    for key, entry in entries.items():
        first_s = _number(f"{where}: window", key)
        if first_s < end_s and first_s + LENGTH_WINDOW_S > start_s:
            histograms[first_s] = (
                _histogram(f"{where}: window {key}", entry, "input_tokens"),
                _histogram(f"{where}: window {key}", entry, "output_tokens"),
            )
    return histograms


def _histogram(where: str, entry: Any, field: str) -> LengthHistogram | None:
    """From `{tokens: probability, ...}`; None where it is empty."""
    text = entry.get(field) if isinstance(entry, dict) else None
    allowed = f"a text {{tokens: probability, ...}} of whole tokens from 1 to {MAX_TOKENS}"
    try:
        if not isinstance(text, str) or text[:1] != "{" or text[-1:] != "}":
            raise ValueError
        if not text[1:-1].strip():
            return None
        pairs = [pair.split(":") for pair in text[1:-1].split(",")]
        tokens, weights = np.array([[key.strip("\"' "), weight] for key, weight in pairs]).astype(float).T
        legal = (tokens >= 1) & (tokens <= MAX_TOKENS) & (tokens % 1 == 0) & (weights >= 0)
        if not legal.all() or not 0 < weights.sum() < math.inf:
            raise ValueError
    except ValueError:
        raise InputError(f"{where}: {field} is {reprlib.repr(text)}, allowed: {allowed}") from None
    return LengthHistogram(tokens.astype(np.int32), weights / weights.sum())


def _with_lengths(window: ClientWindow, lengths: Histograms) -> ClientWindow:
    first_s = window.start_s // LENGTH_WINDOW_S * LENGTH_WINDOW_S
    prompt, output = lengths.get(first_s, (None, None))
    return ClientWindow(
        window.start_s, window.end_s, window.rate_rps, window.law, window.shape, prompt, output
    )


def _number(what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"{what} is {text!r}, allowed: a finite number, at least 0")
    return value
