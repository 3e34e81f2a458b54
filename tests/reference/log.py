"""The log of iterations: what each one served, and who was preempted."""

from dataclasses import dataclass
from typing import NamedTuple


class Entry(NamedTuple):
    """One scheduled request of an iteration."""

    request: int
    tokens: int
    computed: int  # before the iteration
    hit_tokens: int  # found in the prefix cache, if it was admitted in this iteration
    is_prefill: bool


class Preemption(NamedTuple):
    """Who lost its place, by what means (recompute or swap), in which iteration of its replica."""

    time_s: float
    replica: int
    request: int
    iteration: int
    kind: str


@dataclass(frozen=True)
class Iteration:
    """One iteration: when, where, and what it served, in the order in which it was scheduled."""

    replica: int
    start_s: float
    end_s: float
    sampled: int
    kv_used_blocks: int
    entries: tuple[Entry, ...]

    @property
    def tokens(self) -> int:
        return sum(e.tokens for e in self.entries)

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """`(new tokens, computed tokens before them)` of every prefill."""
        return [(e.tokens, e.computed) for e in self.entries if e.is_prefill]

    @property
    def num_decodes(self) -> int:
        return sum(not e.is_prefill for e in self.entries)

    @property
    def kv_tokens(self) -> int:
        """Computed tokens of the decodes."""
        return sum(e.computed for e in self.entries if not e.is_prefill)
