"""One iteration of a replica's engine, as vLLM V1 schedules it: its start and its end.

The rules are numbered in docs/simulator.md, "An iteration".
"""

from servegym.costmodels.iteration import (
    decode_attention_seconds,
    mixed_decode_attention_seconds,
    prefill_attention_seconds,
    step_seconds,
)
from servegym.costmodels.jit import kernel
from servegym.envs.sim.llm.memory import add_decode, blocks_for, iterations_with_blocks, kv_blocks_at
from servegym.envs.sim.llm.queues import (
    REQUEST_BITS,
    append_running,
    pop_due,
    pop_waiting,
    prepend_waiting,
    push_due,
    remove_due,
    remove_running,
)
from servegym.envs.sim.llm.state import NOBODY, Fleet


@kernel
def known_tokens(fleet: Fleet, request_id: int) -> int:
    """Prompt and generated tokens of a request that is not decoding."""
    request = fleet.requests[request_id]
    return request.prompt_tokens + request.generated


@kernel
def decode_horizon(fleet: Fleet, replica_id: int) -> int:
    """For how many iterations from now the replica does nothing but decode the same batch.

    0 where the next iteration prefills, admits or preempts. An arrival can end it only when nobody
    waits: the queue is first come first served, and while its head is kept out, free blocks only shrink.
    """
    replica = fleet.replicas[replica_id]
    if replica.partial != NOBODY or replica.num_decodes == 0:
        return 0
    if replica.num_waiting > 0 and replica.num_running < fleet.max_num_seqs:
        budget = fleet.max_num_batched_tokens - replica.num_decodes
        free = fleet.num_kv_blocks - kv_blocks_at(fleet, replica_id, replica.iteration + 1)
        first_chunk = min(known_tokens(fleet, replica.waiting_first), budget)
        if first_chunk > 0 and blocks_for(first_chunk, fleet.block_size) <= free:
            return 0
    until_completion = (fleet.due[replica_id, 0] >> REQUEST_BITS) - replica.iteration
    return iterations_with_blocks(fleet, replica_id, until_completion)


@kernel
def start_decode(fleet: Fleet, replica_id: int, seconds: float) -> None:
    """Starts an iteration that only decodes and lasts `seconds`; the blocks are known to suffice."""
    replica = fleet.replicas[replica_id]
    replica.clock_s += seconds
    replica.in_flight = 1


@kernel
def skip_decodes(fleet: Fleet, replica_id: int, iterations: int, seconds: float) -> None:
    """Completes `iterations` decode iterations at once, which together last `seconds`."""
    replica = fleet.replicas[replica_id]
    replica.clock_s += seconds
    replica.iteration += iterations
    replica.generated_tokens += iterations * replica.num_decodes
    finish_due(fleet, replica_id)


@kernel
def start_iteration(fleet: Fleet, replica_id: int) -> None:
    """Starts any iteration: serves the running requests, admits waiting ones, fixes its duration."""
    replica = fleet.replicas[replica_id]
    size = fleet.block_size
    preempted = False
    free = fleet.num_kv_blocks - kv_blocks_at(fleet, replica_id, replica.iteration + 1)
    if free < 0:
        _serve_decodes_short_of_blocks(fleet, replica_id)
        free = fleet.num_kv_blocks - kv_blocks_at(fleet, replica_id, replica.iteration + 1)
        preempted = True
    budget = fleet.max_num_batched_tokens - replica.num_decodes
    sampled = replica.num_decodes
    kv_tokens = replica.context_offset + replica.num_decodes * replica.iteration
    seconds = 0.0
    replica.num_joining = 0

    if replica.partial != NOBODY:
        chunk = min(replica.partial_tokens - replica.partial_computed, budget)
        computed = replica.partial_computed
        blocks = blocks_for(computed + chunk, size) - blocks_for(computed, size)
        if blocks > free:
            _preempt_partial(fleet, replica_id)
            preempted = True
        else:
            replica.prefill_blocks += blocks
            free -= blocks
            budget -= chunk
            seconds += prefill_attention_seconds(fleet.cost, chunk, computed)
            if computed + chunk == replica.partial_tokens:
                _join_after_this_iteration(fleet, replica_id, replica.partial)
                sampled += 1
                _clear_partial(fleet, replica_id)
            else:
                replica.partial_computed_next = computed + chunk

    while (
        not preempted and budget > 0 and replica.num_waiting > 0 and replica.num_running < fleet.max_num_seqs
    ):
        request_id = replica.waiting_first
        known = known_tokens(fleet, request_id)
        chunk = min(known, budget)
        blocks = blocks_for(chunk, size)
        if blocks > free:
            break
        pop_waiting(fleet, replica_id)
        append_running(fleet, replica_id, request_id)
        request = fleet.requests[request_id]
        if request.preemptions == 0:
            request.scheduled_s = replica.clock_s
        replica.waiting_tokens -= known
        replica.prefill_blocks += blocks
        free -= blocks
        budget -= chunk
        seconds += fleet.first_chunk_s[chunk]
        if chunk == known:
            _join_after_this_iteration(fleet, replica_id, request_id)
            sampled += 1
        else:
            replica.partial = request_id
            replica.partial_tokens = known
            replica.partial_computed = 0
            replica.partial_computed_next = chunk

    tokens = fleet.max_num_batched_tokens - budget
    prefill_tokens = tokens - replica.num_decodes
    if prefill_tokens > 0:
        seconds += mixed_decode_attention_seconds(fleet.cost, replica.num_decodes, kv_tokens, prefill_tokens)
    else:
        seconds += decode_attention_seconds(fleet.cost, replica.num_decodes, kv_tokens)
    replica.clock_s += seconds + step_seconds(fleet.cost, tokens, sampled)
    replica.in_flight = 1


@kernel
def complete_iteration(fleet: Fleet, replica_id: int) -> None:
    """Ends the iteration in flight: samples tokens, finishes requests, frees their blocks."""
    replica = fleet.replicas[replica_id]
    replica.in_flight = 0
    replica.iteration += 1
    replica.generated_tokens += replica.num_decodes
    finish_due(fleet, replica_id)
    if replica.partial != NOBODY:
        replica.partial_computed = replica.partial_computed_next
    request_id = replica.joining_first
    for _ in range(replica.num_joining):
        following = fleet.requests[request_id].next
        _sample_first_of_prefill(fleet, replica_id, request_id)
        request_id = following
    replica.num_joining = 0


@kernel
def finish_due(fleet: Fleet, replica_id: int) -> None:
    """Finishes the decodes whose last token came with the iteration just completed."""
    replica = fleet.replicas[replica_id]
    heap = fleet.due[replica_id]
    while replica.num_decodes > 0 and heap[0] >> REQUEST_BITS <= replica.iteration:
        request_id = pop_due(heap, replica.num_decodes)
        _leave_decodes(fleet, replica_id, request_id)
        _finish(fleet, replica_id, request_id)


@kernel
def _sample_first_of_prefill(fleet, replica_id, request_id):
    """A prefill is complete: one token comes with it, and the request decodes or is finished."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    computed = request.prompt_tokens + request.generated
    replica.prefill_blocks -= blocks_for(computed, fleet.block_size)
    request.generated += 1
    replica.generated_tokens += 1
    if request.generated == 1:
        request.first_token_s = replica.clock_s
        replica.num_before_first_token -= 1
        replica.ttft_offset_s += replica.clock_s
    if request.generated == request.output_tokens:
        _finish(fleet, replica_id, request_id)
        return
    request.anchor = computed - replica.iteration
    replica.context_offset += request.anchor
    add_decode(fleet, replica_id, request.anchor, 1)
    due = replica.iteration + request.output_tokens - request.generated
    push_due(fleet.due[replica_id], replica.num_decodes, due, request_id)
    replica.num_decodes += 1


@kernel
def _finish(fleet, replica_id, request_id):
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    remove_running(fleet, replica_id, request_id)
    kv_tokens = request.prompt_tokens + request.output_tokens - 1
    replica.released_tokens += kv_tokens
    replica.prompt_tokens -= request.prompt_tokens
    replica.generated_tokens -= request.output_tokens
    replica.predicted_tokens -= request.predicted_tokens
    request.generated = request.output_tokens
    request.finish_s = replica.clock_s
    replica.num_unfinished -= 1
    replica.latency_offset_s += replica.clock_s


@kernel
def _leave_decodes(fleet, replica_id, request_id):
    """Takes a request (already off the heap) out of the sums over decodes."""
    replica = fleet.replicas[replica_id]
    anchor = fleet.requests[request_id].anchor
    replica.num_decodes -= 1
    replica.context_offset -= anchor
    add_decode(fleet, replica_id, anchor, -1)


@kernel
def _join_after_this_iteration(fleet, replica_id, request_id):
    """Notes that the iteration being started completes this request's prefill."""
    replica = fleet.replicas[replica_id]
    if replica.num_joining == 0:
        replica.joining_first = request_id
    replica.num_joining += 1


@kernel
def _clear_partial(fleet, replica_id):
    replica = fleet.replicas[replica_id]
    replica.partial = NOBODY
    replica.partial_tokens = 0
    replica.partial_computed = 0
    replica.partial_computed_next = 0


@kernel
def _serve_decodes_short_of_blocks(fleet, replica_id):
    """Rule 1 when the free blocks do not cover all decodes: the last running requests are preempted."""
    replica = fleet.replicas[replica_id]
    taken = 0
    request_id = replica.running_first
    while request_id != NOBODY and request_id != replica.partial:
        following = fleet.requests[request_id].next
        if (fleet.requests[request_id].anchor + replica.iteration) % fleet.block_size == 0:
            while kv_blocks_at(fleet, replica_id, replica.iteration) + taken == fleet.num_kv_blocks:
                victim = replica.running_last
                if victim == replica.partial:
                    _preempt_partial(fleet, replica_id)
                else:
                    _preempt_decode(fleet, replica_id, victim)
                if victim == request_id:
                    return
                if victim == following:
                    following = NOBODY
            taken += 1
        request_id = following


@kernel
def _preempt_decode(fleet, replica_id, request_id):
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    computed = request.anchor + replica.iteration
    request.generated = computed + 1 - request.prompt_tokens
    remove_due(fleet.due[replica_id], replica.num_decodes, request_id)
    _leave_decodes(fleet, replica_id, request_id)
    _return_to_waiting(fleet, replica_id, request_id)


@kernel
def _preempt_partial(fleet, replica_id):
    replica = fleet.replicas[replica_id]
    request_id = replica.partial
    computed = replica.partial_computed
    replica.prefill_blocks -= blocks_for(computed, fleet.block_size)
    _clear_partial(fleet, replica_id)
    _return_to_waiting(fleet, replica_id, request_id)


@kernel
def _return_to_waiting(fleet, replica_id, request_id):
    replica = fleet.replicas[replica_id]
    remove_running(fleet, replica_id, request_id)
    fleet.requests[request_id].preemptions += 1
    prepend_waiting(fleet, replica_id, request_id)
    replica.waiting_tokens += known_tokens(fleet, request_id)
