"""A batch by a ranking of all requests: whoever goes first is served, others are put off or preempted."""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.asking import order_requests
from servegym.envs.sim.llm.batch import admit, computed_tokens, give_chunk, known_tokens, preempt
from servegym.envs.sim.llm.memory import (
    blocks_for,
    free_after_decodes,
    free_now,
    iterations_with_blocks,
)
from servegym.envs.sim.llm.pausing import pause, resume
from servegym.envs.sim.llm.queues import REQUEST_BITS
from servegym.envs.sim.llm.state import DECODING, PAUSED, PREFILLING, SWAPPED, WAITING, Fleet
from servegym.envs.sim.llm.swapping import swap_in_last, swap_out


@kernel
def _all_decode(fleet, replica_id):
    """Whether everybody is decoding, and nobody needs to be put off but for want of blocks."""
    replica = fleet.replicas[replica_id]
    others = replica.num_waiting + replica.num_swapped + replica.num_prefilling + replica.num_paused
    return others == 0 and fleet.ranking.every_iteration == 0


@routine
def horizon(fleet: Fleet, replica_id: int) -> int:
    """Iterations in which all decode, as any ranking would have it."""
    replica = fleet.replicas[replica_id]
    if replica.num_decodes == 0 or not _all_decode(fleet, replica_id):
        return 0
    until_completion = (fleet.due[replica_id, 0] >> REQUEST_BITS) - replica.iteration
    return iterations_with_blocks(fleet, replica_id, until_completion, 0)


@routine
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch together."""
    replica = fleet.replicas[replica_id]
    replica.beside_s = 0.0
    if _all_decode(fleet, replica_id) and free_after_decodes(fleet, replica_id) >= 0:
        return
    count = order_requests(fleet, replica_id)
    if fleet.engines[replica.group].swap_ahead_blocks > 0:
        _swap_ahead(fleet, replica_id, count)
    reached = _fill(fleet, replica_id, count)
    for place in range(reached, count):
        request_id = fleet.ranking.order[place]
        if fleet.requests[request_id].state == DECODING:
            pause(fleet, replica_id, request_id)


@kernel
def _fill(fleet, replica_id, count):
    """Serves requests in their order while budget and blocks last; returns how many."""
    replica, ranking = fleet.replicas[replica_id], fleet.ranking
    engine = fleet.engines[replica.group]
    budget, free = engine.max_num_batched_tokens, free_now(fleet, replica_id)
    preemptible = 0  # blocks, of those in `running` and not reached yet
    for place in range(count):
        preemptible += _blocks_held(fleet, replica_id, ranking.order[place])
    end = count  # from here on nobody is in `running`; the one here was preempted in this iteration
    for place in range(min(count, engine.max_num_seqs)):
        request_id = ranking.order[place]
        preemptible -= _blocks_held(fleet, replica_id, request_id)
        lacking = _blocks_lacking(fleet, replica_id, request_id)
        keep = engine.watermark_blocks if fleet.requests[request_id].state == WAITING else 0
        if place == end or budget == 0 or free + preemptible < lacking + keep:
            return place
        while free < lacking + keep:
            end -= 1
            victim = ranking.order[end]
            blocks = _blocks_held(fleet, replica_id, victim)
            if blocks > 0:
                _put_off(fleet, replica_id, victim)
                free += blocks
                preemptible -= blocks
        free -= lacking
        budget -= _serve(fleet, replica_id, request_id, lacking, budget)
        ranking.last_batch[request_id] = replica.num_iterations + 1
    return min(count, engine.max_num_seqs)


@kernel
def _serve(fleet, replica_id, request_id, blocks, budget):
    """Puts a request into the batch with `blocks` more blocks; returns the tokens that it gets."""
    state = fleet.requests[request_id].state
    if state == DECODING:
        return 1
    if state == PAUSED:
        resume(fleet, replica_id, request_id)
        return 1
    if state == SWAPPED:
        swap_in_last(fleet, replica_id, request_id)
        return 1
    if state == WAITING:
        admit(fleet, replica_id, request_id, blocks)
    tokens = min(known_tokens(fleet, request_id) - fleet.requests[request_id].computed, budget)
    give_chunk(fleet, replica_id, request_id, tokens)
    return tokens


@kernel
def _blocks_held(fleet, replica_id, request_id):
    """KV blocks of a request in `running`; 0 elsewhere."""
    request = fleet.requests[request_id]
    if request.state == PREFILLING or request.state == PAUSED:
        return request.blocks
    if request.state == DECODING:
        size = fleet.engines[fleet.replicas[replica_id].group].block_size
        return blocks_for(computed_tokens(fleet, replica_id, request_id), size)
    return 0


@kernel
def _blocks_lacking(fleet, replica_id, request_id):
    """KV blocks that a request must take to be in the batch."""
    request = fleet.requests[request_id]
    if request.state == PREFILLING:
        return 0
    size = fleet.engines[fleet.replicas[replica_id].group].block_size
    if request.state == WAITING:
        return blocks_for(known_tokens(fleet, request_id), size)
    needed = blocks_for(computed_tokens(fleet, replica_id, request_id) + 1, size)
    return needed - _blocks_held(fleet, replica_id, request_id)


@kernel
def _decodes(fleet, request_id):
    state = fleet.requests[request_id].state
    return state in (DECODING, PAUSED)


@kernel
def _host_has_room(fleet, replica_id, blocks):
    replica = fleet.replicas[replica_id]
    return replica.swap_used_blocks + blocks <= fleet.engines[replica.group].swap_blocks


@routine
def _put_off(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Preempts: by swapping where the host has room for a decode, else by recompute."""
    blocks = _blocks_held(fleet, replica_id, request_id)
    if _decodes(fleet, request_id) and _host_has_room(fleet, replica_id, blocks):
        swap_out(fleet, replica_id, request_id)
    else:
        preempt(fleet, replica_id, request_id)


@routine
def _swap_ahead(fleet: Fleet, replica_id: int, count: int) -> None:
    """Keeps blocks free: decodes that cannot be served now go to the host, the last of the order first."""
    engine = fleet.engines[fleet.replicas[replica_id].group]
    free = free_now(fleet, replica_id)
    place = count - 1
    while place >= engine.max_num_seqs and free < engine.swap_ahead_blocks:
        request_id = fleet.ranking.order[place]
        blocks = _blocks_held(fleet, replica_id, request_id)
        if _decodes(fleet, request_id) and _host_has_room(fleet, replica_id, blocks):
            swap_out(fleet, replica_id, request_id)
            free += blocks
        place -= 1
