"""What a router sees of a replica and of a request."""

import math
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Any

from tests.reference.engine import Engine
from tests.reference.request import Request
from tests.reference.settings import ROLES


@dataclass(frozen=True)
class Glance:
    """What can be seen of a replica at one instant, whatever the request."""

    running: int
    waiting: int
    queued_prefill_tokens: int
    outstanding_tokens: int
    decode_context_tokens: int
    kv_used_blocks: int
    kv_total_blocks: int
    iteration_ends_s: float  # -inf: none in flight
    predicted_remaining_tokens: float
    kv_released_per_iteration: float
    urgent: int
    first_waiting_tokens: int
    cached: Collection[Hashable]
    engine: Engine | None

    def row(
        self,
        now_s: float,
        available: bool,
        hit_tokens: int,
        speed: float,
        unseen: tuple[int, int],
        standing: int,
        role: str,
    ) -> list[float]:
        """The columns of "What a router sees", in order, as of `now_s`; the arguments are of now."""
        return [
            float(available),
            self.running,
            self.waiting,
            self.queued_prefill_tokens,
            self.outstanding_tokens,
            self.decode_context_tokens,
            self.kv_used_blocks,
            self.kv_total_blocks,
            max(0.0, self.iteration_ends_s - now_s),
            self.predicted_remaining_tokens,
            self.kv_released_per_iteration,
            hit_tokens,
            speed,
            *unseen,
            self.urgent,
            self.first_waiting_tokens,
            standing,
            ROLES.index(role),
        ]

    def hit_tokens(self, request: Request) -> int:
        if self.engine is None or not self.engine.prefix_caching:
            return 0
        block_size = self.engine.block_size
        hits = 0
        for content in request.contents(block_size)[: (request.known - 1) // block_size]:
            if content not in self.cached:
                break
            hits += 1
        return hits * block_size


def glance_at(replica: Any) -> Glance:
    """A look at a `Replica`."""
    prefilling = [r for r in replica.running if not r.decoding]
    queued = sum(r.known for r in replica.waiting if not r.brought)
    queued += sum(r.known - r.computed - r.tokens_in_flight for r in prefilling)
    present = replica.present()
    released = sum(r.final_kv_tokens for r in replica.finished)
    return Glance(
        running=len(replica.running),
        waiting=len(replica.waiting) + len(replica.swapped),
        queued_prefill_tokens=queued,
        outstanding_tokens=sum(r.known for r in present),
        decode_context_tokens=sum(r.computed for r in replica.running if r.decoding),
        kv_used_blocks=replica.pool.used,
        kv_total_blocks=replica.engine.num_kv_blocks,
        iteration_ends_s=replica.in_flight.end_s if replica.in_flight else -math.inf,
        predicted_remaining_tokens=max(
            0.0, sum(r.predicted_remaining(r in replica.running) for r in present)
        ),
        kv_released_per_iteration=released / len(replica.log) if replica.log else 0.0,
        urgent=sum(r.urgent for r in present),
        first_waiting_tokens=_first_waiting_tokens(replica),
        cached=frozenset(replica.pool.cached),
        engine=replica.engine,
    )


def _first_waiting_tokens(replica: Any) -> int:
    if not replica.waiting:
        return 0
    if replica.engine.scheduler in ("vllm_v1", "vllm_v0", "sarathi", "orca", "lightllm"):
        return int(replica.waiting[0].known)
    return int(min(replica.waiting, key=lambda r: (r.arrival_s, r.index)).known)
