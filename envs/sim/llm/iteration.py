"""The start and the end of one iteration, whatever its scheduler has put together."""

import math

from servegym.costmodels.iterations.cost import (
    decode_attention_seconds,
    mixed_decode_attention_seconds,
    step_seconds,
)
from servegym.costmodels.iterations.decode_spans import decode_line, line_seconds
from servegym.costmodels.iterations.lookup import (
    lookup_decode_seconds,
    lookup_prefill_seconds,
    rounded_history,
)
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.asking import note_gone
from servegym.envs.sim.llm.batch import (
    cache_blocks,
    computed_tokens,
    count_out,
    evict,
    is_urgent,
    join_decodes,
    known_tokens,
    leave_decodes,
)
from servegym.envs.sim.llm.energy import count_batch_energy, count_decode_energy
from servegym.envs.sim.llm.engine import LIGHTLLM, RANKED
from servegym.envs.sim.llm.log import log_entry, log_iteration
from servegym.envs.sim.llm.memory import kv_used_blocks
from servegym.envs.sim.llm.queues import REQUEST_BITS, append_prefilling, pop_due, remove_running
from servegym.envs.sim.llm.schedulers.lightllm import count_skipped
from servegym.envs.sim.llm.state import DECODING, ENDED, FINISHING, HELD, NOBODY, SENT, Fleet

MANY_STEPS = 8
"""Decode iterations that take longer one by one than by their closed form."""


@kernel
def start_decode(fleet: Fleet, replica_id: int, seconds: float) -> None:
    """Starts an iteration that only decodes and lasts `seconds`; the blocks are known to suffice."""
    replica = fleet.replicas[replica_id]
    if fleet.engines[replica.group].counts_energy:
        count_decode_energy(fleet, replica_id, 1)
    replica.clock_s += seconds
    replica.in_flight = 1
    replica.decodes_run = 1
    replica.num_held = 0
    if fleet.engines[replica.group].scheduler == LIGHTLLM:
        count_skipped(fleet, replica_id, 1)


@kernel
def step_decodes(fleet: Fleet, replica_id: int, now_s: float) -> None:
    """What `advance` does, to the bit, where nothing but a few more iterations of known decodes is due.

    Does nothing where a request may finish, the decodes or their line may change, or many iterations are due.
    """
    replica = fleet.replicas[replica_id]
    left, seconds = replica.decodes_left, now_s - replica.clock_s
    if left == 0 or not seconds > 0.0:
        return
    decodes = replica.num_decodes
    kv_tokens = replica.context_offset + decodes * (replica.iteration + 1)
    lines, segment = fleet.decode_lines[replica.group], replica.decode_segment
    first_s, growth_s = decode_line(lines, decodes, segment, float(kv_tokens))
    most = min(left, MANY_STEPS)
    steps, span_s, more_s = 1, 0.0, first_s
    while steps < most and more_s <= seconds:
        span_s = more_s
        steps += 1
        more_s = line_seconds(first_s, growth_s, float(steps))
    start_s = replica.clock_s + span_s
    if more_s <= seconds or not start_s < now_s:
        return
    replica.clock_s = start_s + (first_s + growth_s * (steps - 1.0))
    replica.decodes_left = left - steps
    replica.iteration += steps
    replica.num_iterations += steps
    replica.generated_tokens += steps * decodes


@kernel
def skip_decodes(fleet: Fleet, replica_id: int, iterations: int, seconds: float) -> None:
    """Completes `iterations` decode iterations at once, which together last `seconds`."""
    replica = fleet.replicas[replica_id]
    if fleet.engines[replica.group].counts_energy:
        count_decode_energy(fleet, replica_id, iterations)
    replica.clock_s += seconds
    replica.iteration += iterations
    replica.num_iterations += iterations
    replica.generated_tokens += iterations * replica.num_decodes
    engine = fleet.engines[replica.group]
    if engine.scheduler == LIGHTLLM:
        count_skipped(fleet, replica_id, iterations)
    if engine.prefix_caching:
        evict(fleet, replica_id, 0)
    _finish_due(fleet, replica_id)
    if replica.num_finishing > 0:
        _finish_in_order(fleet, replica_id)


@kernel
def start_batch(fleet: Fleet, replica_id: int) -> bool:
    """Starts the batch that was put together; False where it is empty."""
    replica = fleet.replicas[replica_id]
    decodes = (replica.num_decodes - replica.num_held) * replica.decodes_run
    prefill_tokens = replica.batch_prefill_tokens
    tokens = decodes + prefill_tokens
    if tokens == 0:
        return False
    cost = fleet.cost[replica.group]
    kv_tokens = replica.context_offset + replica.num_decodes * replica.iteration - replica.held_context
    seconds = replica.batch_s + step_seconds(cost, tokens, decodes + replica.batch_sampled)
    if fleet.lookup.decode_s.size > 0:
        seconds += _looked_up_seconds(fleet, replica_id, decodes, kv_tokens + decodes)
    elif prefill_tokens > 0:
        seconds += cost.prefill_overhead_s
        seconds += mixed_decode_attention_seconds(cost, decodes, kv_tokens, prefill_tokens)
    else:
        seconds += decode_attention_seconds(cost, decodes, kv_tokens)
    if fleet.engines[replica.group].swap_ahead_blocks > 0:
        seconds = max(seconds, replica.beside_s)
    if fleet.engines[replica.group].counts_energy:
        read = (kv_tokens + decodes) * replica.decodes_run
        count_batch_energy(fleet, replica_id, seconds, tokens, read)
    start_s = replica.clock_s
    replica.clock_s += seconds
    replica.in_flight = 1
    if fleet.log.enabled:
        _log_batch(fleet, replica_id, start_s, tokens, decodes)
    return True


@kernel
def decode_seconds(fleet: Fleet, replica_id: int, decodes: int, kv_tokens: int) -> float:
    """An iteration of so many decodes, with so many computed tokens, and nothing else."""
    cost = fleet.cost[fleet.replicas[replica_id].group]
    seconds: float = step_seconds(cost, decodes, decodes) + decode_attention_seconds(cost, decodes, kv_tokens)
    return seconds


@routine
def _looked_up_seconds(fleet: Fleet, replica_id: int, decodes: int, kv_tokens: int) -> float:
    """Attention of the batch from tables at rounded keys."""
    replica = fleet.replicas[replica_id]
    histories, squares = 0, 0
    request_id = replica.prefilling_first
    for _ in range(replica.num_prefilling):
        request = fleet.requests[request_id]
        if request.chunk > 0:
            histories += rounded_history(request.computed)
            squares += request.chunk * request.chunk
        request_id = request.next_prefilling
    seconds = lookup_decode_seconds(fleet.lookup, decodes, kv_tokens)
    return seconds + lookup_prefill_seconds(fleet.lookup, histories, squares)


@routine
def _log_batch(fleet: Fleet, replica_id: int, start_s: float, tokens: int, decodes: int) -> None:
    """Records the iteration and every request in it, in the order of the running list."""
    replica = fleet.replicas[replica_id]
    request_id = replica.running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        computed = computed_tokens(fleet, replica_id, request_id)
        if request.state == DECODING:
            if replica.decodes_run and request.chunk != HELD:
                log_entry(fleet.log, request_id, 1, computed, 0, False)
        elif request.chunk > 0:
            hits = request.admission_hit_tokens
            log_entry(fleet.log, request_id, request.chunk, computed, hits, True)
        request_id = request.next
    used = kv_used_blocks(fleet, replica_id)
    log_iteration(fleet.log, replica_id, start_s, replica.clock_s, tokens, decodes, used)


@kernel
def complete_iteration(fleet: Fleet, replica_id: int) -> None:
    """Ends the iteration in flight: samples tokens, finishes requests, frees their blocks."""
    replica = fleet.replicas[replica_id]
    if fleet.engines[replica.group].prefix_caching:
        evict(fleet, replica_id, replica.decodes_run)
    replica.in_flight = 0
    replica.num_iterations += 1
    if replica.decodes_run:
        replica.iteration += 1
        replica.generated_tokens += replica.num_decodes - replica.num_held
        if replica.num_held > 0:
            _release_held(fleet, replica_id)
        _finish_due(fleet, replica_id)
    if replica.num_prefilling > 0:
        _advance_prefills(fleet, replica_id)
    if replica.num_finishing > 0:
        _finish_in_order(fleet, replica_id)


@routine
def _release_held(fleet, replica_id):
    replica = fleet.replicas[replica_id]
    replica.num_held = 0
    request_id = replica.running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        if request.chunk == HELD:
            request.chunk = 0
        request_id = request.next


@kernel
def _finish_due(fleet, replica_id):
    """Finishes the decodes whose last token came with the iteration just completed."""
    replica = fleet.replicas[replica_id]
    heap = fleet.due[replica_id]
    while replica.num_decodes > 0 and heap[0] >> REQUEST_BITS <= replica.iteration:
        request_id = pop_due(heap, replica.num_decodes)
        leave_decodes(fleet, replica_id, request_id)
        _finish(fleet, replica_id, request_id)


@kernel
def _advance_prefills(fleet, replica_id):
    """Prefilling requests have computed their chunks; those that are complete leave the prefilling list."""
    replica = fleet.replicas[replica_id]
    request_id = replica.prefilling_first
    count = replica.num_prefilling
    replica.num_prefilling = 0
    replica.prefilling_first = NOBODY
    replica.batch_sampled = 0
    for _ in range(count):
        request = fleet.requests[request_id]
        following = request.next_prefilling
        request.computed += request.chunk
        request.chunk = 0
        request.admission_hit_tokens = 0
        if request.computed == known_tokens(fleet, request_id):
            _sample_first_of_prefill(fleet, replica_id, request_id)
        else:
            append_prefilling(fleet, replica_id, request_id)
        request_id = following


@kernel
def _sample_first_of_prefill(fleet, replica_id, request_id):
    """A prefill is complete: one token comes with it, and the request decodes or is finished."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    request.generated += 1
    replica.generated_tokens += 1
    if math.isnan(request.first_token_s):
        request.first_token_s = replica.clock_s
        replica.num_before_first_token -= 1
        replica.ttft_offset_s += replica.clock_s
    reserved = fleet.engines[replica.group].reserved_blocks
    if reserved == 0:
        replica.prefill_blocks -= request.blocks
    if request.generated == request.output_tokens:
        _finish(fleet, replica_id, request_id)
        return
    if replica.hands_over:
        _hand_over(fleet, replica_id, request_id)
        return
    due = replica.iteration + request.output_tokens - request.generated
    join_decodes(fleet, replica_id, request_id, request.computed, due)


@routine
def _hand_over(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """The request leaves to decode elsewhere; its blocks stay in use until its KV is sent."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    remove_running(fleet, replica_id, request_id)
    replica.prefill_blocks += request.blocks
    replica.kept_blocks += request.blocks
    request.state = SENT
    count_out(fleet, replica_id, request_id)
    announce(fleet, replica_id, request_id)


@routine
def announce(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Adds a request that has left to the list of a replica's news."""
    replica = fleet.replicas[replica_id]
    fleet.requests[request_id].next = NOBODY
    if replica.announced_first == NOBODY:
        replica.announced_first = request_id
    else:
        fleet.requests[replica.announced_last].next = request_id
    replica.announced_last = request_id


@kernel
def _finish(fleet, replica_id, request_id):
    """The last token was sampled. With prefix caching the order matters in which blocks are given back."""
    replica = fleet.replicas[replica_id]
    if fleet.engines[replica.group].prefix_caching:
        fleet.requests[request_id].state = FINISHING
        replica.num_finishing += 1
    else:
        _leave(fleet, replica_id, request_id)


@routine
def _finish_in_order(fleet: Fleet, replica_id: int) -> None:
    """Finishes what has been put off, in the order of the running list, which is that of scheduling."""
    replica = fleet.replicas[replica_id]
    request_id = replica.running_first
    while replica.num_finishing > 0:
        request = fleet.requests[request_id]
        following = request.next
        if request.state == FINISHING:
            tokens = request.prompt_tokens + request.output_tokens - 1
            cache_blocks(fleet, replica_id, request_id, tokens, True)
            _leave(fleet, replica_id, request_id)
            replica.num_finishing -= 1
        request_id = following


@kernel
def _leave(fleet, replica_id, request_id):
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    remove_running(fleet, replica_id, request_id)
    replica.prefill_blocks -= fleet.engines[replica.group].reserved_blocks
    replica.released_tokens += request.prompt_tokens + request.output_tokens - 1
    replica.prompt_tokens -= request.prompt_tokens
    replica.generated_tokens -= request.output_tokens
    replica.predicted_tokens -= request.predicted_tokens
    request.generated = request.output_tokens
    request.state = ENDED
    request.finish_s = replica.clock_s
    replica.num_unfinished -= 1
    replica.num_urgent -= is_urgent(fleet, request_id)
    replica.latency_offset_s += replica.clock_s
    if fleet.engines[replica.group].scheduler == RANKED:
        tokens = request.prompt_tokens + request.output_tokens - 1
        note_gone(fleet, replica_id, request_id, tokens, True)
    if replica.announces:
        announce(fleet, replica_id, request_id)
