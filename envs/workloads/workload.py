"""A workload: the requests of one episode, as arrays."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError

MAX_TOKENS = 2**31 - 1  # token counts are int32

# The integer columns, one entry per request, and the least value of each.
_LEAST = {
    "prompt_tokens": 1,
    "output_tokens": 1,
    "predicted_output_tokens": 1,
    "session_id": 0,
    "slo_class": 0,
    "source_line": 1,
}


@dataclass(frozen=True, eq=False)
class Workload:
    """N requests in order of arrival. Columns are copied, converted and checked on construction.

    Raises `InputError` for unequal lengths, times that are not finite, negative or unsorted, and counts
    below their least value or beyond int32. N = 0 is allowed. The methods return new workloads that share
    no memory with this one.
    """

    name: str
    arrival_s: npt.NDArray[np.float64]  # (N,) seconds, ascending, at least 0
    prompt_tokens: npt.NDArray[np.int32]  # (N,) at least 1
    output_tokens: npt.NDArray[np.int32]  # (N,) at least 1
    predicted_output_tokens: npt.NDArray[np.int32] | None = None  # (N,) at least 1
    session_id: npt.NDArray[np.int32] | None = None  # (N,) at least 0
    slo_class: npt.NDArray[np.int32] | None = None  # (N,) at least 0
    prefix_block_ids: npt.NDArray[np.int64] | None = None  # the blocks of request 0, then of request 1, ...
    prefix_block_offsets: npt.NDArray[np.int64] | None = (
        None  # (N+1,) request i: ids[offsets[i]:offsets[i+1]]
    )
    source: str = ""  # the file that the requests were read from
    source_line: npt.NDArray[np.int32] | None = None  # (N,) line of each request in it, header = line 1

    def __post_init__(self) -> None:
        arrival_s = np.array(self.arrival_s, dtype=np.float64)
        if arrival_s.ndim != 1:
            raise InputError(f"workload {self.name!r}: arrival_s has {arrival_s.ndim} axes, allowed: 1")
        self._require("arrival_s", arrival_s, (arrival_s >= 0) & (arrival_s < np.inf), "finite, at least 0")
        self._require("arrival_s", arrival_s, np.diff(arrival_s, prepend=0.0) >= 0, "ascending times")
        object.__setattr__(self, "arrival_s", arrival_s)
        for column, least in _LEAST.items():
            if getattr(self, column) is not None:
                object.__setattr__(self, column, self._integers(column, len(arrival_s), least, np.int32))
        self._check_prefix_blocks()

    @property
    def num_requests(self) -> int:
        """N."""
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last arrival; 0 with fewer than two requests."""
        return float(self.arrival_s[-1] - self.arrival_s[0]) if self.num_requests else 0.0

    @property
    def rate_rps(self) -> float:
        """Requests per second: interarrivals over `duration_s`; NaN where the duration is 0."""
        return (self.num_requests - 1) / self.duration_s if self.duration_s > 0 else float("nan")

    def take(self, which: slice | npt.ArrayLike) -> "Workload":
        """The requests at these indices (slice, increasing indices or mask), times unchanged."""
        indices = np.arange(self.num_requests)[which]  # type: ignore[index]
        columns: dict[str, Any] = {
            column: getattr(self, column)[indices]
            for column in ("arrival_s", *_LEAST)
            if getattr(self, column) is not None
        }
        if self.prefix_block_ids is not None and self.prefix_block_offsets is not None:
            starts = self.prefix_block_offsets[indices]
            counts = self.prefix_block_offsets[indices + 1] - starts
            offsets = np.concatenate([[0], np.cumsum(counts)])
            positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
            columns["prefix_block_ids"] = self.prefix_block_ids[positions]
            columns["prefix_block_offsets"] = offsets
        return replace(self, **columns)

    def window(self, start_s: float, end_s: float) -> "Workload":
        """The requests that arrive in [start_s, end_s), with `start_s` as the new time 0."""
        if not 0 <= start_s < end_s:
            raise InputError(f"window is [{start_s}, {end_s}) s, allowed: 0 <= start < end")
        first, last = np.searchsorted(self.arrival_s, [start_s, end_s])
        part = self.take(slice(first, last))
        return replace(part, arrival_s=part.arrival_s - start_s)

    def scale_rate(self, factor: float) -> "Workload":
        """The same requests at `factor` times the rate: all times divided by `factor`."""
        if not 0 < factor < np.inf:
            raise InputError(f"rate factor is {factor}, allowed: finite, above 0")
        return replace(self, arrival_s=self.arrival_s / factor)

    def thin(self, keep: float, rng: np.random.Generator) -> "Workload":
        """Each request kept with probability `keep`, independently; thinning keeps Poisson Poisson."""
        if not 0 <= keep <= 1:
            raise InputError(f"probability to keep a request is {keep}, allowed: from 0 to 1")
        return self.take(rng.random(self.num_requests) < keep)

    def with_predictions(self, predicted_output_tokens: npt.ArrayLike) -> "Workload":
        """The same requests with these predicted output lengths (N,), tokens, at least 1."""
        return replace(self, predicted_output_tokens=np.asarray(predicted_output_tokens))

    def check_fits(self, num_kv_blocks: int, block_size: int) -> None:
        """Raise `InputError` for the first request that the KV cache of one replica cannot hold at its end.

        A request ends with `p + o - 1` tokens in the cache (the last output token is never written), in
        `ceil((p + o - 1) / block_size)` blocks: docs/simulator.md, "Objects".
        """
        kv_tokens = self.prompt_tokens.astype(np.int64) + self.output_tokens - 1
        blocks = -(-kv_tokens // block_size)
        too_long = np.flatnonzero(blocks > num_kv_blocks)
        if len(too_long):
            i = int(too_long[0])
            line = f", line {self.source_line[i]}" if self.source_line is not None else ""
            raise InputError(
                f"{self.source or f'workload {self.name!r}'}{line}: request {i} with "
                f"{self.prompt_tokens[i]} prompt and {self.output_tokens[i]} output tokens needs "
                f"{blocks[i]} KV blocks of {block_size} tokens, allowed: at most {num_kv_blocks}"
            )

    def _require(
        self, column: str, values: npt.NDArray[Any], legal: npt.NDArray[np.bool_], allowed: str
    ) -> None:
        if not legal.all():
            i = int(np.argmin(legal))
            raise InputError(f"workload {self.name!r}: {column}[{i}] is {values[i]}, allowed: {allowed}")

    def _integers(self, column: str, length: int | None, least: int, dtype: type) -> npt.NDArray[Any]:
        values = np.asarray(getattr(self, column))
        if values.size and values.dtype.kind not in "iu":
            raise InputError(f"workload {self.name!r}: {column} is of type {values.dtype}, allowed: integers")
        if values.ndim != 1 or (length is not None and len(values) != length):
            allowed = "one axis" if length is None else f"({length},)"
            raise InputError(f"workload {self.name!r}: {column} has shape {values.shape}, allowed: {allowed}")
        most = np.iinfo(dtype).max
        self._require(
            column, values, (values >= least) & (values <= most), f"integers from {least} to {most}"
        )
        return np.array(values, dtype=dtype)

    def _check_prefix_blocks(self) -> None:
        if (self.prefix_block_ids is None) != (self.prefix_block_offsets is None):
            raise InputError(f"workload {self.name!r}: prefix_block_ids and prefix_block_offsets go together")
        if self.prefix_block_ids is None:
            return
        ids = self._integers("prefix_block_ids", None, 0, np.int64)
        offsets = self._integers("prefix_block_offsets", self.num_requests + 1, 0, np.int64)
        self._require("prefix_block_offsets", offsets, np.diff(offsets, prepend=0) >= 0, "ascending offsets")
        if offsets[0] != 0 or offsets[-1] != len(ids):
            raise InputError(
                f"workload {self.name!r}: prefix_block_offsets run from {offsets[0]} to {offsets[-1]}, "
                f"allowed: from 0 to {len(ids)}, the number of prefix_block_ids"
            )
        object.__setattr__(self, "prefix_block_ids", ids)
        object.__setattr__(self, "prefix_block_offsets", offsets)
