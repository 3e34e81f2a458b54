"""Sarathi-Serve's stall-free batches, as Vidur has them: decodes, running prefills, then the queue."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.reference.replica import Replica
    from tests.reference.request import Request


def schedule(replica: "Replica") -> None:
    engine = replica.engine
    budget = engine.max_num_batched_tokens
    prefilling: list[Request] = []
    behind = list(replica.running)
    while behind:
        request = behind.pop(0)
        if not request.decoding:
            prefilling.append(request)  # passed over: no longer a victim
            continue
        while replica.free_blocks == 0 and request in replica.running:
            replica.preempt(behind.pop() if behind else request)
        if request in replica.running:
            replica.take_blocks(request, request.computed + 1)
            replica.serve(request, 1)
            budget -= 1

    for request in prefilling:
        tokens = min(request.known - request.computed, budget)
        if tokens > 0:
            replica.serve(request, tokens)
            budget -= tokens

    while replica.waiting and replica.num_seats > 0 and budget > 0:
        request = replica.waiting[0]
        if replica.free_blocks - engine.blocks_for(request.known) < engine.watermark_blocks:
            return
        replica.admit(request)
        replica.take_blocks(request, request.known)
        tokens = min(request.known, budget)
        replica.serve(request, tokens)
        budget -= tokens
