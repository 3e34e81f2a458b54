"""vLLM's V1 engine, synchronous: running requests, then waiting ones, within one token budget."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.reference.replica import Replica
    from tests.reference.request import Request


def schedule(replica: "Replica") -> None:
    present = len(replica.running) + len(replica.waiting)
    threshold = replica.engine.long_prefill_token_threshold if present > 1 else 0
    budget, preempted = _serve_running(replica, threshold)
    if not preempted:
        _admit_waiting(replica, budget, threshold)


def _chunk(tokens: int, budget: int, threshold: int) -> int:
    return min(tokens, budget, threshold) if threshold else min(tokens, budget)


def _serve_running(replica: "Replica", threshold: int) -> tuple[int, bool]:
    """Step 1; the budget left, and whether any was preempted."""
    budget, preempted = replica.engine.max_num_batched_tokens, False
    position = 0
    while position < len(replica.running) and budget > 0:
        request = replica.running[position]
        tokens = _chunk(request.known - request.computed, budget, threshold)
        while replica.lacking(request, request.computed + tokens) > replica.free_blocks:
            victim = _victim(replica)
            if victim in replica.batch:
                budget += replica.unserve(victim)
            if replica.running.index(victim) < position:
                position -= 1
            replica.preempt(victim)
            preempted = True
            if victim is request:
                break
        if request in replica.running:
            replica.take_blocks(request, request.computed + tokens)
            replica.serve(request, tokens)
            budget -= tokens
            position += 1
        elif replica.engine.order == "fcfs":
            break
    return budget, preempted


def _victim(replica: "Replica") -> "Request":
    order = replica.engine.order
    if order != "fcfs":  # the first of equals
        return max(
            replica.running, key=lambda r: (r.priority if order == "priority" else r.rank_key, r.arrival_s)
        )
    return replica.running[-1]


def _admit_waiting(replica: "Replica", budget: int, threshold: int) -> None:
    """Step 2."""
    engine = replica.engine
    while budget > 0 and replica.waiting and replica.num_seats > 0:
        request = replica.waiting[0]
        hits = replica.lookup(request)
        computed = request.computed if request.brought else len(hits) * engine.block_size
        tokens = _chunk(request.known - computed, budget, threshold)
        free_hits = sum(block.holders == 0 for block in hits)
        in_all = request.known if engine.reserve_full_prompt else computed + tokens
        free = replica.free_blocks - engine.watermark_blocks
        if free < engine.blocks_for(in_all) - len(hits) + free_hits:
            return
        if engine.reserved_output_share and _target(replica, request) > free - _set_aside(replica):
            return
        replica.admit(request, hits)
        replica.take_blocks(request, computed + tokens)
        replica.serve(request, tokens)
        budget -= tokens


def _target(replica: "Replica", request: "Request") -> int:
    return replica.engine.target_blocks(request.known, request.prompt_tokens, replica.output_limit(request))


def _set_aside(replica: "Replica") -> int:
    """Blocks that those running have not taken yet of what they were admitted for."""
    return sum(max(0, _target(replica, r) - len(r.table)) for r in replica.running)
