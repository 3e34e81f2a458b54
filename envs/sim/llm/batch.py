"""What a batch is made of: the steps from which every scheduler puts an iteration together.

A scheduler calls `begin_batch`, then these steps as its rules say; `iteration.py` starts and ends what it has
put together. Decodes run in every iteration unless `decodes_run` is set to 0 or single ones are held.
"""

import math

from servegym.costmodels.iterations.cost import prefill_attention_seconds
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.engine import FCFS
from servegym.envs.sim.llm.log import RECOMPUTE, log_preemption
from servegym.envs.sim.llm.memory import add_decode, blocks_for, kv_blocks_at
from servegym.envs.sim.llm.prefix_cache import evict_to_fit, give_back, publish, take_hits
from servegym.envs.sim.llm.queues import (
    append_prefilling,
    append_running,
    insert_in_order,
    insert_running_after,
    pop_waiting,
    prepend_waiting,
    push_due,
    remove_due,
    remove_prefilling,
    remove_running,
    remove_waiting,
)
from servegym.envs.sim.llm.search_tree import arrived_before
from servegym.envs.sim.llm.state import DECODING, HELD, NOBODY, PAUSED, PREFILLING, WAITING, Fleet


@kernel
def known_tokens(fleet: Fleet, request_id: int) -> int:
    """Prompt and generated tokens of a request that is not decoding."""
    request = fleet.requests[request_id]
    known: int = request.prompt_tokens + request.generated
    return known


@kernel
def is_urgent(fleet: Fleet, request_id: int) -> bool:
    """Whether it has the most urgent priority of those that scenarios give."""
    return bool(fleet.requests[request_id].priority <= fleet.urgent_priority[0])


@kernel
def begin_batch(fleet: Fleet, replica_id: int) -> None:
    """An empty batch, in which the decodes run."""
    replica = fleet.replicas[replica_id]
    replica.decodes_run = 1
    replica.num_held = 0
    replica.held_context = 0
    replica.batch_prefill_tokens = 0
    replica.batch_sampled = 0
    replica.batch_s = 0.0


@kernel
def _chunk_seconds(fleet, group, tokens, computed):
    if computed == 0:
        return fleet.first_chunk_s[group, tokens]
    return _later_chunk_seconds(fleet, group, tokens, computed)


@routine
def _later_chunk_seconds(fleet, group, tokens, computed):
    return prefill_attention_seconds(fleet.cost[group], tokens, computed)


@kernel
def give_chunk(fleet: Fleet, replica_id: int, request_id: int, tokens: int) -> None:
    """A prefilling request computes its next `tokens` tokens in this batch; it has the blocks for them."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    request.chunk = tokens
    replica.batch_prefill_tokens += tokens
    replica.prefill_left_tokens -= tokens
    replica.batch_s += _chunk_seconds(fleet, replica.group, tokens, request.computed)
    if request.computed + tokens == known_tokens(fleet, request_id):
        replica.batch_sampled += 1
    engine = fleet.engines[replica.group]
    if engine.prefix_caching:
        _publish(fleet, replica_id, request_id, (request.computed + tokens) // engine.block_size)


@routine
def _publish(fleet, replica_id, request_id, full_blocks):
    evict(fleet, replica_id, 0)
    publish(fleet.cache, replica_id, request_id, full_blocks)


@routine
def take_back_chunk(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """The opposite: a victim that was already served leaves the batch."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    tokens = request.chunk
    if tokens == 0:
        return
    replica.batch_prefill_tokens -= tokens
    replica.prefill_left_tokens += tokens
    replica.batch_s -= _chunk_seconds(fleet, replica.group, tokens, request.computed)
    if request.computed + tokens == known_tokens(fleet, request_id):
        replica.batch_sampled -= 1
    request.chunk = 0


@kernel
def admit(fleet: Fleet, replica_id: int, request_id: int, blocks: int) -> None:
    """A waiting request becomes the last of the running ones and takes `blocks` free blocks."""
    _leave_waiting(fleet, replica_id, request_id, 0, blocks)
    append_running(fleet, replica_id, request_id)


@routine
def admit_with_hits(
    fleet: Fleet, replica_id: int, request_id: int, hits: int, free_hits: int, blocks: int
) -> None:
    """The same with `hits` of its `blocks` found in the prefix cache, `free_hits` of them free ones."""
    replica = fleet.replicas[replica_id]
    take_hits(fleet.cache, replica_id, request_id, hits)
    size = fleet.engines[replica.group].block_size
    _leave_waiting(fleet, replica_id, request_id, hits * size, blocks)
    append_running(fleet, replica_id, request_id)
    replica.prefill_blocks -= hits - free_hits


@routine
def admit_brought(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """A request at the front that has brought its KV along runs and decodes from this batch on."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    pop_waiting(fleet, replica_id)
    append_running(fleet, replica_id, request_id)
    request.chunk = 0
    computed = known_tokens(fleet, request_id) - 1
    join_decodes(
        fleet,
        replica_id,
        request_id,
        computed,
        replica.iteration + request.output_tokens - request.generated,
    )
    engine = fleet.engines[replica.group]
    if engine.prefix_caching:
        _publish(fleet, replica_id, request_id, (computed + 1) // engine.block_size)


@routine
def evict(fleet: Fleet, replica_id: int, iterations: int) -> None:
    """Evicts what is cached in blocks that are in use once the decodes have run `iterations` iterations more.

    Due before a lookup, before blocks are given back, and before new ones are published.
    """
    replica = fleet.replicas[replica_id]
    total = fleet.engines[replica.group].num_kv_blocks
    used = kv_blocks_at(fleet, replica_id, replica.iteration + iterations)
    evict_to_fit(fleet.cache, replica_id, min(used, total), total)


@routine
def admit_by_arrival(fleet: Fleet, replica_id: int, request_id: int, blocks: int) -> None:
    """The same where the running requests are ordered by arrival."""
    _leave_waiting(fleet, replica_id, request_id, 0, blocks)
    insert_running_by_arrival(fleet, replica_id, request_id)


@kernel
def insert_running_by_arrival(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Puts a request into its place among running requests ordered by arrival."""
    before = fleet.replicas[replica_id].running_last
    while before != NOBODY and arrived_before(fleet, request_id, before):
        before = fleet.requests[before].previous
    insert_running_after(fleet, replica_id, request_id, before)


@kernel
def _leave_waiting(fleet, replica_id, request_id, computed, blocks):
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    known = known_tokens(fleet, request_id)
    if request_id == replica.waiting_first:
        pop_waiting(fleet, replica_id)
    else:
        remove_waiting(fleet, replica_id, request_id)
    append_prefilling(fleet, replica_id, request_id)
    if math.isnan(request.scheduled_s):
        request.scheduled_s = replica.clock_s
    request.state = PREFILLING
    replica.batch_s += request.image_s
    request.image_s = 0.0
    request.computed = computed
    request.admission_hit_tokens = computed
    request.hit_tokens += computed
    request.chunk = 0
    request.blocks = blocks
    replica.prefill_blocks += blocks
    replica.waiting_tokens -= known
    replica.prefill_left_tokens += known - computed


@kernel
def join_decodes(fleet: Fleet, replica_id: int, request_id: int, computed: int, due_iteration: int) -> None:
    """A running request with `computed` tokens decodes from now on; iteration `due_iteration` finishes it."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    request.state = DECODING
    request.anchor = computed - replica.iteration
    replica.context_offset += request.anchor
    add_decode(fleet, replica_id, request.anchor, 1)
    push_due(fleet.due[replica_id], replica.num_decodes, due_iteration, request_id)
    replica.num_decodes += 1


@kernel
def leave_decodes(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Takes a request (already off the heap) out of the sums over decodes."""
    replica = fleet.replicas[replica_id]
    anchor = fleet.requests[request_id].anchor
    replica.num_decodes -= 1
    replica.context_offset -= anchor
    add_decode(fleet, replica_id, anchor, -1)


@kernel
def leave_paused(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Takes a request out of the sums over those paused."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    replica.prefill_blocks -= request.blocks
    replica.num_paused -= 1
    replica.paused_context -= request.computed


@kernel
def computed_tokens(fleet: Fleet, replica_id: int, request_id: int) -> int:
    """Tokens of a running request that have their KV entries."""
    request = fleet.requests[request_id]
    computed: int = request.computed
    if request.state == DECODING:
        computed = request.anchor + fleet.replicas[replica_id].iteration
    return computed


@routine
def hold_decode(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Leaves one decode out of this batch, in which others run: they advance, and it falls behind by one."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    computed = request.anchor + replica.iteration
    left = request.output_tokens - (computed + 1 - request.prompt_tokens)
    remove_due(fleet.due[replica_id], replica.num_decodes, request_id)
    leave_decodes(fleet, replica_id, request_id)
    join_decodes(fleet, replica_id, request_id, computed - 1, replica.iteration + 1 + left)
    request.chunk = HELD
    replica.num_held += 1
    replica.held_context += computed - 1


@routine
def leave_running(fleet: Fleet, replica_id: int, request_id: int) -> int:
    """Takes a request out of the running ones and frees its blocks; returns its computed tokens."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    engine = fleet.engines[replica.group]
    given = max(0, request.chunk)  # in this batch, which no longer counts but for what it has cached
    if request.state == DECODING:
        computed = request.anchor + replica.iteration
        request.generated = computed + 1 - request.prompt_tokens
        remove_due(fleet.due[replica_id], replica.num_decodes, request_id)
        leave_decodes(fleet, replica_id, request_id)
        replica.prefill_blocks -= engine.reserved_blocks
    elif request.state == PAUSED:
        computed = request.computed
        leave_paused(fleet, replica_id, request_id)
    else:
        computed = request.computed
        take_back_chunk(fleet, replica_id, request_id)
        remove_prefilling(fleet, replica_id, request_id)
        replica.prefill_left_tokens -= known_tokens(fleet, request_id) - computed
        replica.prefill_blocks -= request.blocks
    if engine.prefix_caching:
        cache_blocks(fleet, replica_id, request_id, computed + given, False)
    request.chunk = 0
    remove_running(fleet, replica_id, request_id)
    return computed


@kernel
def count_out(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """A request that has not finished here does not count here any more; `generated` is current."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    replica.prompt_tokens -= request.prompt_tokens
    replica.generated_tokens -= request.generated
    replica.predicted_tokens -= request.predicted_tokens
    replica.num_unfinished -= 1
    replica.num_urgent -= is_urgent(fleet, request_id)
    replica.latency_offset_s += request.arrival_s
    if math.isnan(request.first_token_s):
        replica.num_before_first_token -= 1
        replica.ttft_offset_s += request.arrival_s


@routine
def cache_blocks(fleet: Fleet, replica_id: int, request_id: int, tokens: int, finished: bool) -> None:
    """Puts the blocks of a request, already counted out, at its end or preemption into the prefix cache."""
    replica = fleet.replicas[replica_id]
    size = fleet.engines[replica.group].block_size
    full = tokens // size
    blocks = blocks_for(tokens, size)
    freed = give_back(fleet.cache, replica_id, request_id, full, blocks - full, finished)
    replica.prefill_blocks += blocks - freed


@routine
def preempt(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Preemption by recompute."""
    prefilling = fleet.requests[request_id].state == PREFILLING
    computed = leave_running(fleet, replica_id, request_id)
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    request.preemptions += 1
    request.state = WAITING
    engine = fleet.engines[replica.group]
    if engine.restart_cuts_prompt and prefilling:
        _cut_prompt(fleet, replica_id, request_id, computed)
    replica.waiting_tokens += known_tokens(fleet, request_id)
    log_preemption(fleet.log, replica.clock_s, replica_id, request_id, RECOMPUTE)
    if engine.order == FCFS:
        prepend_waiting(fleet, replica_id, request_id)
    else:
        insert_in_order(fleet, replica_id, request_id, replica.clock_s)


@kernel
def _cut_prompt(fleet, replica_id, request_id, computed):
    """Takes the tokens computed so far for the whole prompt; what is left of it becomes output."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    total = request.prompt_tokens + request.output_tokens
    prompt = min(request.prompt_tokens, computed)
    replica.prompt_tokens += prompt - request.prompt_tokens
    replica.generated_tokens += computed - prompt - request.generated
    request.prompt_tokens = prompt
    request.output_tokens = total - prompt
    request.generated = computed - prompt
