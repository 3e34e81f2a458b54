"""LightLLM's scheduler: prefill batches now and then, admitted if the peak of memory to come fits.

Rules as in LightLLM's router and as Vidur simulates them; the outputs to come are the requests' own limits.
"""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import admit, give_chunk, known_tokens
from servegym.envs.sim.llm.memory import blocks_for
from servegym.envs.sim.llm.queues import REQUEST_BITS
from servegym.envs.sim.llm.state import DECODING, NOBODY, Fleet


@routine
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch together: prefills alone where it is time to try, else all decodes."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    if replica.num_running == 0 or replica.since_attempt >= engine.decodes_between_prefills:
        replica.since_attempt = 0
        tokens = 0
        while _head_fits(fleet, replica_id, tokens):
            request_id = replica.waiting_first
            known = known_tokens(fleet, request_id)
            admit(fleet, replica_id, request_id, blocks_for(known, engine.block_size))
            give_chunk(fleet, replica_id, request_id, known)
            tokens += known
        if tokens > 0:
            replica.decodes_run = 0
            return
    replica.since_attempt += 1


@routine
def horizon(fleet: Fleet, replica_id: int) -> int:
    """Iterations in which nothing but the same decodes run; while somebody waits, up to the next attempt."""
    replica = fleet.replicas[replica_id]
    if replica.num_decodes == 0:
        return 0
    period = fleet.engines[replica.group].decodes_between_prefills
    until_completion: int = (fleet.due[replica_id, 0] >> REQUEST_BITS) - replica.iteration
    if replica.num_waiting == 0:
        return until_completion
    until_attempt = period - replica.since_attempt
    if until_attempt <= 0:
        until_attempt = 0 if _head_fits(fleet, replica_id, 0) else period
    return min(until_attempt, until_completion)


@kernel
def count_skipped(fleet: Fleet, replica_id: int, iterations: int) -> None:
    """Counts decode iterations since the last attempt; attempts among them have failed."""
    replica = fleet.replicas[replica_id]
    period = fleet.engines[replica.group].decodes_between_prefills
    replica.since_attempt = (replica.since_attempt + iterations - 1) % period + 1


@kernel
def _head_fits(fleet, replica_id, tokens):
    """Whether the head of the queue joins a prefill batch of so many tokens."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    return (
        replica.num_waiting > 0
        and replica.num_running < engine.max_num_seqs
        and tokens + known_tokens(fleet, replica.waiting_first) <= engine.max_num_batched_tokens
        and _peak_fits(fleet, replica_id, replica.waiting_first)
    )


@kernel
def _use(fleet, replica_id, request_id):
    """KV tokens of a request once it decodes, and how many it may still add."""
    request = fleet.requests[request_id]
    if request.state == DECODING:
        used = request.anchor + fleet.replicas[replica_id].iteration + 1
        return used, max(0, request.max_output_tokens - (used - request.prompt_tokens) - 1)
    known = known_tokens(fleet, request_id)
    return known + 1, max(0, request.max_output_tokens - request.generated - 2)


@kernel
def _peak_fits(fleet, replica_id, candidate):
    """Whether the KV cache holds the running requests and the candidate at any time to come.

    Requests end by what is left to them; when the i-th longest ends, the i longest are still there.
    """
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    capacity = engine.num_kv_blocks * engine.block_size - engine.max_num_seqs * (engine.block_size - 1)
    own_used, own_left = _use(fleet, replica_id, candidate)
    own_count, own_sum = 1, own_used
    request_id = replica.running_first
    while request_id != NOBODY:
        used, left = _use(fleet, replica_id, request_id)
        count, total = 0, 0
        if own_left >= left:
            count, total = 1, own_used
        other_id = replica.running_first
        while other_id != NOBODY:
            other_used, other_left = _use(fleet, replica_id, other_id)
            if other_left >= left:
                count += 1
                total += other_used
            other_id = fleet.requests[other_id].next
        if left * count + total >= capacity:
            return False
        if left >= own_left:
            own_count += 1
            own_sum += used
        request_id = fleet.requests[request_id].next
    return own_left * own_count + own_sum < capacity
