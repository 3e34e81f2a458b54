"""Sarathi-Serve's stall-free batching (Agrawal et al., OSDI 2024, algorithm 3), as Vidur simulates it."""

from servegym.costmodels.native.jit import routine
from servegym.envs.sim.llm.batch import admit, give_chunk, known_tokens
from servegym.envs.sim.llm.memory import blocks_for, free_after_decodes, iterations_with_blocks
from servegym.envs.sim.llm.queues import REQUEST_BITS
from servegym.envs.sim.llm.schedulers.one_free_block import serve_decodes
from servegym.envs.sim.llm.state import NOBODY, Fleet


@routine
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch together: decodes, prefills under way, new prefills."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    serve_decodes(fleet, replica_id)
    budget = engine.max_num_batched_tokens - replica.num_decodes
    request_id = replica.prefilling_first
    while request_id != NOBODY and replica.num_prefilling > 0:
        request = fleet.requests[request_id]
        chunk = min(known_tokens(fleet, request_id) - request.computed, budget)
        request.chunk = 0
        if chunk > 0:
            give_chunk(fleet, replica_id, request_id, chunk)
            budget -= chunk
        request_id = request.next_prefilling
    free = free_after_decodes(fleet, replica_id)
    while budget > 0 and replica.num_waiting > 0 and replica.num_running < engine.max_num_seqs:
        request_id = replica.waiting_first
        known = known_tokens(fleet, request_id)
        blocks = blocks_for(known, engine.block_size)
        if free - blocks < engine.watermark_blocks:
            return
        chunk = min(known, budget)
        admit(fleet, replica_id, request_id, blocks)
        give_chunk(fleet, replica_id, request_id, chunk)
        budget -= chunk
        free -= blocks


@routine
def horizon(fleet: Fleet, replica_id: int) -> int:
    """Iterations in which nothing but the same decodes run; a head kept out stays so as blocks shrink."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    if replica.num_prefilling > 0 or replica.num_decodes == 0:
        return 0
    if (
        replica.num_waiting > 0
        and replica.num_running < engine.max_num_seqs
        and engine.max_num_batched_tokens > replica.num_decodes
    ):
        blocks = blocks_for(known_tokens(fleet, replica.waiting_first), engine.block_size)
        if free_after_decodes(fleet, replica_id) - blocks >= engine.watermark_blocks:
            return 0
    until_completion = (fleet.due[replica_id, 0] >> REQUEST_BITS) - replica.iteration
    return iterations_with_blocks(fleet, replica_id, until_completion, 1)
