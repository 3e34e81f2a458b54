"""vLLM's first engine (0.4): whole prompts first in batches of their own, then all decodes; swapping."""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import admit_by_arrival, give_chunk, known_tokens
from servegym.envs.sim.llm.memory import blocks_for, free_after_decodes, free_now, iterations_with_blocks
from servegym.envs.sim.llm.queues import REQUEST_BITS
from servegym.envs.sim.llm.schedulers.one_free_block import serve_decodes
from servegym.envs.sim.llm.state import Fleet
from servegym.envs.sim.llm.swapping import swap_in


@routine
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch together: prefills alone, or all decodes."""
    replica = fleet.replicas[replica_id]
    num, tokens, longest = 0, 0, 0
    while _head_fits(fleet, replica_id, num, tokens, longest):
        request_id = replica.waiting_first
        known = known_tokens(fleet, request_id)
        size = fleet.engines[replica.group].block_size
        admit_by_arrival(fleet, replica_id, request_id, blocks_for(known, size))
        give_chunk(fleet, replica_id, request_id, known)
        num += 1
        tokens += known
        longest = max(longest, known)
    if num > 0:
        replica.decodes_run = 0
        return
    if not serve_decodes(fleet, replica_id):
        while _swapped_fits(fleet, replica_id):
            swap_in(fleet, replica_id)


@kernel
def _head_fits(fleet, replica_id, num, tokens, longest):
    """Whether the head of the queue joins a prefill batch of `num` prompts with so many tokens."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    if replica.num_swapped > 0 or replica.num_waiting == 0 or replica.num_running >= engine.max_num_seqs:
        return False
    known = known_tokens(fleet, replica.waiting_first)
    blocks = blocks_for(known, engine.block_size)
    if free_now(fleet, replica_id) - blocks < engine.watermark_blocks:
        return False
    if engine.max_padded_prefill_tokens > 0:
        return (num + 1) * max(longest, known) <= engine.max_padded_prefill_tokens
    return tokens + known <= engine.max_num_batched_tokens


@kernel
def _swapped_fits(fleet, replica_id):
    """Whether the first of the swapped-out requests can come back beside the decodes of this iteration."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    if replica.num_swapped == 0 or replica.num_running >= engine.max_num_seqs:
        return False
    blocks = blocks_for(fleet.requests[replica.swapped_first].computed + 1, engine.block_size)
    return free_after_decodes(fleet, replica_id) - blocks >= engine.watermark_blocks


@routine
def horizon(fleet: Fleet, replica_id: int) -> int:
    """Iterations in which nothing but the same decodes run; who is kept out stays so as blocks shrink."""
    replica = fleet.replicas[replica_id]
    if replica.num_prefilling > 0 or replica.num_decodes == 0:
        return 0
    if _head_fits(fleet, replica_id, 0, 0, 0) or _swapped_fits(fleet, replica_id):
        return 0
    until_completion = (fleet.due[replica_id, 0] >> REQUEST_BITS) - replica.iteration
    return iterations_with_blocks(fleet, replica_id, until_completion, 1)
