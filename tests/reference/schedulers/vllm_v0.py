"""vLLM's V0 engine: a batch of whole prompts if one can be had, else all decodes; recompute or swap."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.reference.replica import Replica
    from tests.reference.request import Request


def schedule(replica: "Replica") -> None:
    if not replica.swapped:
        _prefill(replica)
    if replica.batch:
        return
    if _decode(replica):
        _swap_in(replica)


def _prefill(replica: "Replica") -> None:
    """Step 1."""
    engine = replica.engine
    while replica.waiting and replica.num_seats > 0:
        request = replica.waiting[0]
        lengths = [r.known for r in [*replica.batch, request]]
        if engine.max_padded_prefill_tokens:
            too_many = len(lengths) * max(lengths) > engine.max_padded_prefill_tokens
        else:
            too_many = sum(lengths) > engine.max_num_batched_tokens
        left = replica.free_blocks - engine.blocks_for(request.known)
        if too_many or left < engine.watermark_blocks:
            return
        replica.admit(request)
        replica.take_blocks(request, request.known)
        replica.serve(request, request.known)


def _decode(replica: "Replica") -> bool:
    """Step 2; whether nobody was preempted or swapped out."""
    undisturbed = True
    behind = sorted(replica.running, key=lambda r: (r.arrival_s, r.index))
    while behind:
        request = behind.pop(0)
        while replica.free_blocks == 0 and request in replica.running:
            _evict(replica, behind.pop() if behind else request)
            undisturbed = False
        if request in replica.running:
            replica.take_blocks(request, request.computed + 1)
            replica.serve(request, 1)
    return undisturbed


def _evict(replica: "Replica", victim: "Request") -> None:
    """Swap out if that is wanted and the host has room, else preempt by recompute."""
    if replica.engine.preemption == "swap" and replica.host_has_room(victim):
        replica.swap_out(victim)
    else:
        replica.preempt(victim)


def _swap_in(replica: "Replica") -> None:
    """Step 3."""
    engine = replica.engine
    while replica.swapped and replica.num_seats > 0:
        request = replica.swapped[0]
        left = replica.free_blocks - engine.blocks_for(request.computed + 1)
        if left < engine.watermark_blocks:
            return
        replica.swap_in(request)
        replica.take_blocks(request, request.computed + 1)
        replica.serve(request, 1)
