"""A workload: the requests of one episode, as arrays."""

import copy
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.columns import (
    NON_NEGATIVE,
    POSITIVE_OR_INFINITE,
    Column,
    integers,
    require,
)
from servegym.envs.workloads.slo import SloClass

MAX_TOKENS = 2**31 - 1  # token counts are int32

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Workload:
    """N requests in order of arrival. Columns are copied, converted and checked on construction.

    A column that is None is absent. Raises `InputError` for unequal lengths, values out of the ranges
    below, and columns that contradict each other. N = 0 is allowed. The methods return new workloads that
    share no memory with this one.

    **Prompt contents.** `prefix_ids` and `prefix_offsets` go together: the prompt of request i consists of
    blocks of `prefix_block_tokens` tokens with contents `prefix_ids[prefix_offsets[i]:prefix_offsets[i+1]]`.
    Equal ids mean equal contents and equal everything before them, so an id always follows the same id.
    The last block may be partly filled; tokens beyond the last block are shared with no other request.

    **Sessions (closed loop).** With `parent[i] = j >= 0`, request i arrives `think_s[i]` seconds after
    request j has finished, and its `arrival_s` is ignored (it still has to be in order). Its prompt
    contains its parent's prompt and output; without `prefix_ids`, those
    `prompt_tokens[j] + output_tokens[j]` tokens are what it shares with it. -1: open loop.
    """

    name: str
    arrival_s: Annotated[Floats, NON_NEGATIVE]  # (N,) seconds, ascending
    prompt_tokens: Annotated[Ints, integers(np.int32, 1)]  # (N,)
    output_tokens: Annotated[Ints, integers(np.int32, 1)]  # (N,)
    predicted_output_tokens: Annotated[Ints | None, integers(np.int32, 1)] = None
    session_id: Annotated[Ints | None, integers(np.int32, 0)] = None
    slo_class: Annotated[npt.NDArray[np.int16] | None, integers(np.int16, 0)] = None  # index into slo_classes
    slo_classes: tuple[SloClass, ...] = ()
    priority: Annotated[Ints | None, integers(np.int32)] = None  # lower is more urgent, as in vLLM
    tenant: Annotated[Ints | None, integers(np.int32, 0)] = None  # number of the client it belongs to
    max_output_tokens: Annotated[Ints | None, integers(np.int32, 1)] = (
        None  # the client's limit on the output
    )
    cancel_after_s: Annotated[Floats | None, POSITIVE_OR_INFINITE] = (
        None  # from arrival until the client leaves
    )
    image_tokens: Annotated[Ints | None, integers(np.int32, 0)] = None  # of the prompt, made by an encoder
    parent: Annotated[Ints | None, integers(np.int32, -1)] = None  # index of an earlier request
    think_s: Annotated[Floats | None, NON_NEGATIVE] = None  # from the parent's finish to the arrival
    prefix_ids: npt.NDArray[np.int64] | None = None  # of request 0, then of request 1, ...
    prefix_offsets: npt.NDArray[np.int64] | None = None  # (N+1,)
    prefix_block_tokens: int = 0  # at least 1 where there are prefix_ids
    prediction_refinement: float | None = None  # see `refined_remaining`; in (0, 1], None: predictions stay
    source: str = ""  # the file that the requests were read from
    source_line: Annotated[Ints | None, integers(np.int32, 1)] = None  # of each request, header = line 1

    def __post_init__(self) -> None:
        length = np.size(self.arrival_s)
        for name, column in _COLUMNS.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, column.read(self._at(name), getattr(self, name), length))
        require(
            self._at("arrival_s"),
            self.arrival_s,
            np.diff(self.arrival_s, prepend=0.0) >= 0,
            "ascending times",
        )
        self._check_refinement()
        self._check_limits()
        self._check_slo_classes()
        self._check_prefixes()
        self._check_sessions()

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
        """The requests at these indices (slice, increasing indices or mask), times unchanged.

        A follow-up whose parent is not taken becomes open loop and arrives at its `arrival_s`. Nothing is
        checked again: what holds for all requests holds for some.
        """
        indices = np.arange(self.num_requests)[which]  # type: ignore[index]
        require(f"workload {self.name!r}: requests", indices[1:], indices[1:] > indices[:-1], "increasing")
        return self._rows(indices)

    def repeat(self, copies: npt.ArrayLike) -> "Workload":
        """Each request so many times, (N,), one after the other at the same instant.

        InputError where requests follow others.
        """
        if self.parent is not None:
            raise InputError(f"workload {self.name!r}: requests that follow others cannot be repeated")
        return self._rows(np.repeat(np.arange(self.num_requests), np.asarray(copies)))

    def replay(self, indices: npt.ArrayLike, arrival_s: Floats) -> "Workload":
        """The requests at these indices (M,), in any order and as often as wanted, with these arrivals (M,).

        InputError where requests follow others, or the arrivals are not ascending.
        """
        if self.parent is not None:
            raise InputError(f"workload {self.name!r}: requests that follow others cannot be replayed")
        return replace(self._rows(np.asarray(indices)), arrival_s=arrival_s)

    def _rows(self, indices: npt.NDArray[np.int64]) -> "Workload":
        columns: dict[str, Any] = {
            name: getattr(self, name)[indices] for name in _COLUMNS if getattr(self, name) is not None
        }
        if self.parent is not None:
            new_index = np.full(self.num_requests + 1, -1)  # the last entry is for parent -1
            new_index[indices] = np.arange(len(indices))
            columns["parent"] = new_index[columns["parent"]]
        if self.prefix_ids is not None and self.prefix_offsets is not None:
            starts = self.prefix_offsets[indices]
            counts = self.prefix_offsets[indices + 1] - starts
            offsets = np.concatenate([[0], np.cumsum(counts)])
            positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
            columns |= {"prefix_ids": self.prefix_ids[positions], "prefix_offsets": offsets}
        return self._with(**columns)

    def _with(self, **columns: Any) -> "Workload":
        """The same with some columns replaced by new ones that are right; copies the rest."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if name in columns:
                object.__setattr__(other, name, columns[name])
            elif isinstance(value, np.ndarray):
                object.__setattr__(other, name, value.copy())
        return other

    def window(self, start_s: float, end_s: float) -> "Workload":
        """The requests that arrive in [start_s, end_s), with `start_s` as the new time 0."""
        if not 0 <= start_s < end_s:
            raise InputError(f"window is [{start_s}, {end_s}) s, allowed: 0 <= start < end")
        first, last = np.searchsorted(self.arrival_s, [start_s, end_s])
        part = self.take(slice(first, last))
        return replace(part, arrival_s=part.arrival_s - start_s)

    def scale_rate(self, factor: float) -> "Workload":
        """The same requests at `factor` times the rate: all arrival times divided by `factor`.

        `think_s` and `cancel_after_s` stay: more clients come, and none of them becomes quicker.
        """
        if not 0 < factor < np.inf:
            raise InputError(f"rate factor is {factor}, allowed: finite, above 0")
        return replace(self, arrival_s=self.arrival_s / factor)

    def from_first_arrival(self, rate_factor: float) -> "Workload":
        """The same requests at `rate_factor` times the rate, the first of them at time 0."""
        arrival_s = (self.arrival_s - self.arrival_s[0]) / rate_factor
        return self._with(arrival_s=_COLUMNS["arrival_s"].read(self._at("arrival_s"), arrival_s))

    def thin(self, keep: float, rng: np.random.Generator) -> "Workload":
        """Each request kept with probability `keep`, independently; thinning keeps Poisson Poisson.

        A chain of follow-ups is kept or dropped whole, with the request that it starts from.
        """
        if not 0 <= keep <= 1:
            raise InputError(f"probability to keep a request is {keep}, allowed: from 0 to 1")
        return self.take((rng.random(self.num_requests) < keep)[self.first_of_chain()])

    def with_predictions(
        self, predicted_output_tokens: npt.ArrayLike, refinement: float | None = None
    ) -> "Workload":
        """The same requests with these predicted output lengths (N,), tokens, at least 1; how they refine."""
        name = "predicted_output_tokens"
        read = _COLUMNS[name].read(self._at(name), predicted_output_tokens, self.num_requests)
        other = self._with(predicted_output_tokens=read, prediction_refinement=refinement)
        other._check_refinement()
        return other

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
            raise InputError(
                f"{self.name_of_request(i)} with {self.prompt_tokens[i]} prompt and {self.output_tokens[i]} "
                f"output tokens needs {blocks[i]} KV blocks of {block_size} tokens, allowed: at most "
                f"{num_kv_blocks}"
            )

    def first_of_chain(self) -> npt.NDArray[np.int64]:
        """(N,) index of the open-loop request that each request descends from; its own for an open one."""
        own = np.arange(self.num_requests)
        first = own if self.parent is None else np.where(self.parent < 0, own, self.parent)
        while (first[first] != first).any():
            first = first[first]
        return first

    def _at(self, name: str) -> str:
        return f"workload {self.name!r}: {name}"

    def name_of_request(self, i: int) -> str:
        """Where request `i` comes from, for messages: workload or file with its line, and its number."""
        line = f", line {self.source_line[i]}" if self.source_line is not None else ""
        return f"{self.source or f'workload {self.name!r}'}{line}: request {i}"

    def _check_refinement(self) -> None:
        refinement = self.prediction_refinement
        if refinement is None:
            return
        if not 0 < refinement <= 1:
            raise InputError(
                f"{self._at('prediction_refinement')} is {refinement}, allowed: in (0, 1], or None"
            )
        if self.predicted_output_tokens is None:
            raise InputError(
                f"{self._at('prediction_refinement')} is {refinement}, "
                "allowed: None without predicted_output_tokens"
            )

    def _check_limits(self) -> None:
        for name, limit, of in (
            ("output_tokens", self.max_output_tokens, "max_output_tokens"),
            ("image_tokens", self.prompt_tokens, "prompt_tokens"),
        ):
            values = getattr(self, name)
            if values is not None and limit is not None:
                require(self._at(name), values, values <= limit, f"at most {of} of the same request")

    def _check_slo_classes(self) -> None:
        if self.slo_class is not None:
            most = len(self.slo_classes) - 1
            allowed = f"0 to {most}, indices into slo_classes" if most >= 0 else "none without slo_classes"
            require(self._at("slo_class"), self.slo_class, self.slo_class <= most, allowed)

    def _check_prefixes(self) -> None:
        if (self.prefix_ids is None) != (self.prefix_offsets is None):
            raise InputError(f"workload {self.name!r}: prefix_ids and prefix_offsets go together")
        if self.prefix_ids is None or self.prefix_offsets is None:
            return
        ids = integers(np.int64, 0).read(self._at("prefix_ids"), self.prefix_ids)
        at_offsets = self._at("prefix_offsets")
        offsets = integers(np.int64, 0).read(at_offsets, self.prefix_offsets, self.num_requests + 1)
        require(at_offsets, offsets, np.diff(offsets, prepend=0) >= 0, "ascending offsets")
        if offsets[0] != 0 or offsets[-1] != len(ids):
            raise InputError(
                f"{at_offsets} run from {offsets[0]} to {offsets[-1]}, "
                f"allowed: from 0 to {len(ids)}, the number of prefix_ids"
            )
        if self.prefix_block_tokens < 1:
            raise InputError(
                f"{self._at('prefix_block_tokens')} is {self.prefix_block_tokens}, allowed: at least 1"
            )
        most = -(-self.prompt_tokens.astype(np.int64) // self.prefix_block_tokens)
        counts = np.diff(offsets)
        blocks = f"the blocks of {self.prefix_block_tokens} tokens that the prompt has"
        require(self._at("number of prefix_ids"), counts, counts <= most, f"at most {blocks}")
        previous = np.concatenate([[-1], ids[:-1]])
        previous[offsets[:-1][counts > 0]] = -1
        by_id = np.argsort(ids, kind="stable")
        differs = (np.diff(ids[by_id]) == 0) & (np.diff(previous[by_id]) != 0)
        if differs.any():
            position = int(by_id[1:][differs].min())
            i = int(np.searchsorted(offsets, position, side="right")) - 1
            raise InputError(
                f"{self.name_of_request(i)}: prefix id {ids[position]} does not follow the id that it "
                "follows elsewhere, allowed: ids that stand for a block and everything before it"
            )
        object.__setattr__(self, "prefix_ids", ids)
        object.__setattr__(self, "prefix_offsets", offsets)

    def _check_sessions(self) -> None:
        if (self.parent is None) != (self.think_s is None):
            raise InputError(f"workload {self.name!r}: parent and think_s go together")
        if self.parent is None:
            return
        at_parent = self._at("parent")
        require(at_parent, self.parent, self.parent < np.arange(self.num_requests), "earlier requests, or -1")
        if self.prefix_ids is None:
            history = self.prompt_tokens.astype(np.int64) + self.output_tokens
            holds = (self.parent < 0) | (self.prompt_tokens >= history[self.parent])
            allowed = "at least the prompt and output of its parent"
            require(self._at("prompt_tokens"), self.prompt_tokens, holds, allowed)


_COLUMNS: dict[str, Column] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Workload, include_extras=True).items()
    if get_origin(hint) is Annotated
}
"""The columns with one entry per request; they are checked and taken alike."""
