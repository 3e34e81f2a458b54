"""vLLM 0.33's V1 engine: one token budget, running requests first, chunked prefill."""

import math

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import (
    admit,
    admit_brought,
    admit_with_hits,
    computed_tokens,
    evict,
    give_chunk,
    hold_decode,
    known_tokens,
    preempt,
)
from servegym.envs.sim.llm.engine import FCFS
from servegym.envs.sim.llm.memory import (
    blocks_for,
    free_after_decodes,
    free_now,
    iterations_with_blocks,
    kv_blocks_at,
)
from servegym.envs.sim.llm.prefix_cache import evict_to_fit, lookup
from servegym.envs.sim.llm.queues import REQUEST_BITS
from servegym.envs.sim.llm.state import BROUGHT, DECODING, NOBODY, Fleet


@kernel
def _chunk(left, budget, threshold):
    """Tokens given to a request that lacks `left`."""
    chunk = min(left, budget)
    return min(chunk, threshold) if threshold > 0 else chunk


@kernel
def _chunk_threshold(fleet, replica_id):
    """Most tokens of one chunk; 0 where there is no limit."""
    replica = fleet.replicas[replica_id]
    if replica.num_running + replica.num_waiting <= 1:
        return 0
    return fleet.engines[replica.group].long_prefill_token_threshold


@kernel
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch together."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    threshold = _chunk_threshold(fleet, replica_id)
    budget = engine.max_num_batched_tokens - replica.num_decodes
    free = free_after_decodes(fleet, replica_id)
    if replica.num_prefilling > 0:
        request_id = replica.prefilling_first
        request = fleet.requests[request_id]
        chunk = _chunk(known_tokens(fleet, request_id) - request.computed, budget, threshold)
        blocks = blocks_for(request.computed + chunk, engine.block_size) - request.blocks
        free -= blocks
        # With blocks for all, and nobody but the last in its prefill, the order of service is immaterial.
        if free >= 0 and request_id == replica.running_last:
            request.blocks += blocks
            replica.prefill_blocks += blocks
            give_chunk(fleet, replica_id, request_id, chunk)
            budget -= chunk
        else:
            free = -1
    if free < 0:
        _serve_running_in_order(fleet, replica_id, threshold)
    else:
        _admit_waiting(fleet, replica_id, budget, threshold, free)


@kernel
def _admit_waiting(fleet, replica_id, budget, threshold, free):
    """Rule 2: admits requests from the front of the queue while budget, seats and blocks allow."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    size = engine.block_size
    seats = engine.max_num_seqs - replica.reserved_seats
    free -= engine.watermark_blocks
    if engine.reserved_output_share > 0.0 and replica.num_waiting > 0:
        free -= _set_aside(fleet, replica_id)
    while budget > 0 and replica.num_waiting > 0 and replica.num_running < seats:
        request_id = replica.waiting_first
        known = known_tokens(fleet, request_id)
        target = 0
        if engine.reserved_output_share > 0.0:
            target = _target_blocks(fleet, replica_id, request_id, known)
        if fleet.requests[request_id].state == BROUGHT:
            blocks = max(target, blocks_for(known, size))
            if blocks > free:
                return
            admit_brought(fleet, replica_id, request_id)
            budget -= 1
            free -= blocks
            continue
        hits, free_hits = 0, 0
        if engine.prefix_caching:
            evict(fleet, replica_id, 1)
            hits, free_hits = lookup(fleet.cache, replica_id, request_id, (known - 1) // size)
        chunk = _chunk(known - hits * size, budget, threshold)
        blocks = blocks_for(hits * size + chunk, size)
        needed = max(target, blocks_for(known, size) if engine.reserve_full_prompt else blocks)
        if needed - hits + free_hits > free:
            return
        if engine.prefix_caching:
            admit_with_hits(fleet, replica_id, request_id, hits, free_hits, blocks)
        else:
            admit(fleet, replica_id, request_id, blocks)
        give_chunk(fleet, replica_id, request_id, chunk)
        budget -= chunk
        free -= max(target, blocks) - hits + free_hits


@kernel
def _target_blocks(fleet, replica_id, request_id, known):
    """What admission aims at for a request with so many known tokens, where blocks are set aside."""
    engine = fleet.engines[fleet.replicas[replica_id].group]
    request = fleet.requests[request_id]
    most = 1 if fleet.replicas[replica_id].hands_over else request.max_output_tokens
    reserved = request.prompt_tokens + math.ceil(engine.reserved_output_share * (most - 1))
    return blocks_for(max(known, reserved), engine.block_size)


@routine
def _set_aside(fleet: Fleet, replica_id: int) -> int:
    """Blocks that running requests are to have beyond those that they hold after this iteration."""
    replica = fleet.replicas[replica_id]
    size = fleet.engines[replica.group].block_size
    blocks = 0
    request_id = replica.running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        if request.state == DECODING:
            known = computed_tokens(fleet, replica_id, request_id) + 1
            held = blocks_for(known, size)
        else:
            known = known_tokens(fleet, request_id)
            held = request.blocks
        blocks += max(0, _target_blocks(fleet, replica_id, request_id, known) - held)
        request_id = request.next
    return blocks


@kernel
def horizon(fleet: Fleet, replica_id: int) -> int:
    """For how many iterations from now the replica does nothing but decode the same batch.

    0 where the next iteration prefills, admits or preempts. An arrival can end it only when nobody
    waits: while the head of the queue is kept out, free blocks only shrink.
    """
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    if replica.num_prefilling > 0 or replica.num_decodes == 0:
        return 0
    if replica.num_waiting > 0 and replica.num_running + replica.reserved_seats < engine.max_num_seqs:
        size = engine.block_size
        budget = engine.max_num_batched_tokens - replica.num_decodes
        known = known_tokens(fleet, replica.waiting_first)
        hits, free_hits, target = 0, 0, 0
        if engine.reserved_output_share > 0.0:
            target = _target_blocks(fleet, replica_id, replica.waiting_first, known)
        brought = fleet.requests[replica.waiting_first].state == BROUGHT
        if engine.prefix_caching and not brought:
            evict(fleet, replica_id, 1)
            hits, free_hits = lookup(fleet.cache, replica_id, replica.waiting_first, (known - 1) // size)
        if not engine.reserve_full_prompt and not brought:
            known = hits * size + _chunk(known - hits * size, budget, _chunk_threshold(fleet, replica_id))
        blocks = max(target, blocks_for(known, size)) - hits + free_hits
        free = free_after_decodes(fleet, replica_id) - engine.watermark_blocks
        if engine.reserved_output_share > 0.0:
            free -= _set_aside(fleet, replica_id)
        if budget > 0 and blocks <= free:
            return 0
    until_completion = (fleet.due[replica_id, 0] >> REQUEST_BITS) - replica.iteration
    return iterations_with_blocks(fleet, replica_id, until_completion, 0)


@routine
def _serve_running_in_order(fleet: Fleet, replica_id: int, threshold: int) -> None:
    """Rule 1 where its order matters, and rule 2 where nobody is preempted by it."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    size = engine.block_size
    request_id = replica.running_first
    while request_id != NOBODY:
        fleet.requests[request_id].chunk = 0
        request_id = fleet.requests[request_id].next

    budget = engine.max_num_batched_tokens
    taken = 0  # blocks, by decodes served so far
    preempted = False
    request_id = replica.running_first
    while request_id != NOBODY and budget > 0:
        request = fleet.requests[request_id]
        computed = computed_tokens(fleet, replica_id, request_id)
        if request.state == DECODING:
            tokens, lacking = 1, 1 if computed % size == 0 else 0
        else:
            tokens = _chunk(known_tokens(fleet, request_id) - computed, budget, threshold)
            lacking = blocks_for(computed + tokens, size) - request.blocks
        following = request.next
        served = True
        while served and lacking > free_now(fleet, replica_id) - taken:
            victim = replica.running_last if engine.order == FCFS else _least_urgent(fleet, replica_id)
            served = victim != request_id
            if engine.prefix_caching:
                used = kv_blocks_at(fleet, replica_id, replica.iteration) + taken
                evict_to_fit(fleet.cache, replica_id, used, engine.num_kv_blocks)
            budget += fleet.requests[victim].chunk
            taken -= _taken_by(fleet, replica_id, victim)
            preempt(fleet, replica_id, victim)
            preempted = True
            if served:
                following = request.next
        if served:
            budget -= tokens
            if request.state == DECODING:
                request.chunk = 1
                taken += lacking
            else:
                request.blocks += lacking
                replica.prefill_blocks += lacking
                give_chunk(fleet, replica_id, request_id, tokens)
        elif engine.order == FCFS:
            break
        request_id = following
    _hold_unserved(fleet, replica_id)
    if not preempted:
        _admit_waiting(fleet, replica_id, budget, threshold, free_after_decodes(fleet, replica_id))


@kernel
def _taken_by(fleet, replica_id, request_id):
    """Blocks that a decode served in this pass has taken in it."""
    request = fleet.requests[request_id]
    if request.state != DECODING or request.chunk == 0:
        return 0
    computed = computed_tokens(fleet, replica_id, request_id)
    return 1 if computed % fleet.engines[fleet.replicas[replica_id].group].block_size == 0 else 0


@kernel
def _hold_unserved(fleet, replica_id):
    """Decodes that the budget did not reach sit this iteration out."""
    request_id = fleet.replicas[replica_id].running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        following = request.next
        if request.state == DECODING:
            if request.chunk == 0:
                hold_decode(fleet, replica_id, request_id)
            else:
                request.chunk = 0
        request_id = following


@kernel
def _least_urgent(fleet, replica_id):
    """The first running request with the greatest (key, arrival)."""
    replica = fleet.replicas[replica_id]
    victim = replica.running_first
    request_id = fleet.requests[victim].next
    while request_id != NOBODY:
        request, worst = fleet.requests[request_id], fleet.requests[victim]
        if request.key > worst.key or (request.key == worst.key and request.arrival_s > worst.arrival_s):
            victim = request_id
        request_id = request.next
    return victim
