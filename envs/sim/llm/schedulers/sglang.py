"""SGLang's scheduler: prefills first, longest cached prefix first, outputs promised by a share, retraction.

Rules as in SGLang 0.5's `schedule_policy.py` and `schedule_batch.py`, in blocks instead of tokens.
"""

import math

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import admit, admit_with_hits, evict, give_chunk, known_tokens, preempt
from servegym.envs.sim.llm.memory import blocks_for, free_after_decodes, free_now, iterations_with_blocks
from servegym.envs.sim.llm.prefix_cache import lookup
from servegym.envs.sim.llm.queues import (
    REQUEST_BITS,
    append_waiting,
    insert_waiting_last_of_equals,
    pop_waiting,
)
from servegym.envs.sim.llm.state import DECODING, FIRST_TOKEN_RATIO, NOBODY, Fleet

LEAST_RATIO = FIRST_TOKEN_RATIO * 0.14
RATIO_DECAY = FIRST_TOKEN_RATIO * 0.86 / 600
MOST_NEW_TOKENS = 4096
BLOCKS_AFTER_RETRACTION = 20
MOST_SORTED = 128


@kernel
def _left(fleet, replica_id, request_id):
    """Output tokens to reserve for."""
    request = fleet.requests[request_id]
    generated = request.generated
    if request.state == DECODING:
        generated = request.anchor + fleet.replicas[replica_id].iteration + 1 - request.prompt_tokens
    return min(request.max_output_tokens - generated, MOST_NEW_TOKENS)


@kernel
def _promised_blocks(fleet, replica_id):
    """Blocks that the running requests are expected to take yet."""
    replica = fleet.replicas[replica_id]
    size = fleet.engines[replica.group].block_size
    ratio = max(
        LEAST_RATIO, replica.token_ratio - max(0, replica.iteration - replica.ratio_set_at) * RATIO_DECAY
    )
    blocks = 0
    request_id = replica.running_first
    while request_id != NOBODY:
        blocks += math.ceil(ratio * _left(fleet, replica_id, request_id) / size)
        request_id = fleet.requests[request_id].next
    return blocks


@routine
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch together: prefills alone, or all decodes."""
    replica = fleet.replicas[replica_id]
    if _prefill(fleet, replica_id):
        replica.decodes_run = 0
    elif free_after_decodes(fleet, replica_id) < 0:
        _retract(fleet, replica_id)


@kernel
def _prefill(fleet, replica_id):
    """Step 1; whether anybody prefills."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    size = engine.block_size
    budget = engine.max_num_batched_tokens
    free = free_now(fleet, replica_id)
    promised = _promised_blocks(fleet, replica_id)
    anybody = False
    if engine.prefix_caching and 1 < replica.num_waiting <= MOST_SORTED:
        _sort_by_prefix(fleet, replica_id)
    if replica.num_prefilling > 0:
        request_id = replica.prefilling_first
        request = fleet.requests[request_id]
        left = known_tokens(fleet, request_id) - request.computed
        chunk = min(left, budget)
        blocks = blocks_for(request.computed + chunk, size) - request.blocks
        if blocks > free:
            return False
        request.blocks += blocks
        replica.prefill_blocks += blocks
        give_chunk(fleet, replica_id, request_id, chunk)
        if chunk < left:
            return True
        anybody = True
        free -= blocks
        budget -= chunk
    while budget > 0 and replica.num_waiting > 0 and replica.num_running < engine.max_num_seqs:
        request_id = replica.waiting_first
        known = known_tokens(fleet, request_id)
        hits, free_hits = 0, 0
        if engine.prefix_caching:
            evict(fleet, replica_id, 0)
            hits, free_hits = lookup(fleet.cache, replica_id, request_id, (known - 1) // size)
        whole = blocks_for(known + _left(fleet, replica_id, request_id), size)
        if whole - hits + free_hits > free - promised:
            return anybody
        chunk = min(known - hits * size, budget)
        blocks = blocks_for(hits * size + chunk, size)
        if engine.prefix_caching:
            admit_with_hits(fleet, replica_id, request_id, hits, free_hits, blocks)
        else:
            admit(fleet, replica_id, request_id, blocks)
        give_chunk(fleet, replica_id, request_id, chunk)
        anybody = True
        promised += whole - blocks
        free -= blocks - hits + free_hits
        budget -= chunk
    return anybody


@routine
def _sort_by_prefix(fleet: Fleet, replica_id: int) -> None:
    """Sorts the waiting queue by cached blocks, longest first; of equals, the order stays."""
    replica = fleet.replicas[replica_id]
    size = fleet.engines[replica.group].block_size
    evict(fleet, replica_id, 0)
    request_id, count = replica.waiting_first, replica.num_waiting
    replica.num_waiting = 0
    for _ in range(count):
        request = fleet.requests[request_id]
        following = request.next
        most = (known_tokens(fleet, request_id) - 1) // size
        request.key = -lookup(fleet.cache, replica_id, request_id, most)[0]
        insert_waiting_last_of_equals(fleet, replica_id, request_id)
        request_id = following


@routine
def horizon(fleet: Fleet, replica_id: int) -> int:
    """Iterations in which nothing but the same decodes run; none while somebody waits for a promise."""
    replica = fleet.replicas[replica_id]
    if replica.num_prefilling > 0 or replica.num_decodes == 0:
        return 0
    if replica.num_waiting > 0 and replica.num_running < fleet.engines[replica.group].max_num_seqs:
        return 0
    until_completion = (fleet.due[replica_id, 0] >> REQUEST_BITS) - replica.iteration
    return iterations_with_blocks(fleet, replica_id, until_completion, 0)


@routine
def _retract(fleet: Fleet, replica_id: int) -> None:
    """Step 2's retraction: decodes with little to lose go, until there is room for some iterations."""
    replica = fleet.replicas[replica_id]
    while replica.num_decodes > 1 and free_after_decodes(fleet, replica_id) < BLOCKS_AFTER_RETRACTION:
        _retract_one(fleet, replica_id, _least_to_lose(fleet, replica_id))
    if free_after_decodes(fleet, replica_id) < 0 and replica.num_prefilling > 0:
        _retract_one(fleet, replica_id, replica.prefilling_first)
    generated, limits = 0, 0
    request_id = replica.running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        if request.state == DECODING:
            generated += request.anchor + replica.iteration + 1 - request.prompt_tokens
            limits += request.max_output_tokens
        request_id = request.next
    replica.token_ratio = min(1.0, (generated + BLOCKS_AFTER_RETRACTION * replica.num_decodes) / limits)
    replica.ratio_set_at = replica.iteration + 1


@kernel
def _retract_one(fleet, replica_id, request_id):
    """Preempts, and moves the request from the front of the queue to its back."""
    preempt(fleet, replica_id, request_id)
    append_waiting(fleet, replica_id, pop_waiting(fleet, replica_id))


@kernel
def _least_to_lose(fleet, replica_id):
    """The decode with the fewest generated tokens; of equals the longest prompt, then the last admitted."""
    replica = fleet.replicas[replica_id]
    victim, fewest, longest = NOBODY, 0, 0
    request_id = replica.running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        if request.state == DECODING:
            prompt = request.prompt_tokens
            generated = request.anchor + replica.iteration + 1 - prompt
            if victim == NOBODY or generated < fewest or (generated == fewest and prompt >= longest):
                victim, fewest, longest = request_id, generated, prompt
        request_id = request.next
    return victim
