"""What must hold of a replica at any time, recomputed from its lists. For tests and debugging."""

from servegym.costmodels.native.jit import jit
from servegym.envs.sim.llm.batch import is_urgent
from servegym.envs.sim.llm.engine import RANKED
from servegym.envs.sim.llm.memory import blocks_for, kv_used_blocks
from servegym.envs.sim.llm.state import (
    BROUGHT,
    DECODING,
    HELD,
    NOBODY,
    PAUSED,
    PREFILLING,
    SWAPPED,
    WAITING,
    Fleet,
)


@jit
def check_replica(fleet: Fleet, replica_id: int) -> None:
    """Raises AssertionError naming the first invariant of docs/simulator.md that does not hold."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    assert 0 <= kv_used_blocks(fleet, replica_id) <= engine.num_kv_blocks, "KV blocks in use exceed the cache"
    served = replica.num_decodes if engine.scheduler == RANKED else replica.num_running
    assert served + replica.reserved_seats <= engine.max_num_seqs, "more requests run than max_num_seqs"
    present = replica.num_running + replica.num_waiting + replica.num_swapped
    assert replica.num_unfinished == present, "a request is lost"
    assert replica.num_finishing == 0, "a finished request has not left"

    advancing = replica.in_flight * replica.decodes_run
    blocks, context, running, decodes, prefilling, left, held = replica.kept_blocks, 0, 0, 0, 0, 0, 0
    prompts, predicted, urgent, paused, paused_context = 0, 0, 0, 0, 0
    request_id = replica.running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        prompts += request.prompt_tokens
        predicted += request.predicted_tokens
        urgent += is_urgent(fleet, request_id)
        if request.state == DECODING:
            computed = request.anchor + replica.iteration
            context += computed
            blocks += engine.reserved_blocks if engine.reserved_blocks > 0 else 0
            if engine.reserved_blocks == 0:
                blocks += blocks_for(computed + advancing, engine.block_size)
            decodes += 1
            held += request.chunk == HELD
        elif request.state == PAUSED:
            assert request.blocks == blocks_for(request.computed, engine.block_size), "a paused one's blocks"
            blocks += request.blocks
            paused += 1
            paused_context += request.computed
        else:
            assert request.state == PREFILLING, "a running request neither prefills nor decodes"
            blocks += request.blocks
            prefilling += 1
            left += request.prompt_tokens + request.generated - request.computed - request.chunk
        running += 1
        request_id = request.next
    assert running == replica.num_running, "the running list and its length differ"
    assert decodes == replica.num_decodes, "the decodes in the running list and their number differ"
    assert held == replica.num_held * advancing, "the decodes held and their number differ"
    assert prefilling == replica.num_prefilling, "the prefills in the running list and their number differ"
    assert paused == replica.num_paused, "the paused in the running list and their number differ"
    assert paused_context == replica.paused_context, "context tokens of the paused differ"
    assert left == replica.prefill_left_tokens, "tokens that prefills lack differ"
    if engine.prefix_caching:
        _check_cache(fleet, replica_id, blocks)
    else:
        assert blocks == kv_used_blocks(fleet, replica_id), (
            "KV blocks in use differ from those the running requests hold"
        )
    assert context == replica.context_offset + decodes * replica.iteration, "decode context tokens differ"

    waiting_tokens = 0
    request_id = replica.waiting_first
    for _ in range(replica.num_waiting):
        request = fleet.requests[request_id]
        assert request.state in (WAITING, BROUGHT), "a request in the waiting queue does not wait"
        if request.state == WAITING:
            waiting_tokens += request.prompt_tokens + request.generated
        prompts += request.prompt_tokens
        predicted += request.predicted_tokens
        urgent += is_urgent(fleet, request_id)
        request_id = request.next
    assert waiting_tokens == replica.waiting_tokens, "tokens in the waiting queue differ"
    swapped_blocks = 0
    request_id = replica.swapped_first
    for _ in range(replica.num_swapped):
        request = fleet.requests[request_id]
        assert request.state == SWAPPED, "a swapped-out request is not marked so"
        swapped_blocks += request.blocks
        prompts += request.prompt_tokens
        predicted += request.predicted_tokens
        urgent += is_urgent(fleet, request_id)
        request_id = request.next
    assert swapped_blocks == replica.swap_used_blocks, "blocks on the host differ"
    assert swapped_blocks <= engine.swap_blocks, "the host holds more blocks than it has"
    assert prompts == replica.prompt_tokens, "prompt tokens are lost or made up"
    assert predicted == replica.predicted_tokens, "predicted tokens are lost or made up"
    assert urgent == replica.num_urgent, "urgent requests and their number differ"


@jit
def _check_cache(fleet: Fleet, replica_id: int, blocks: int) -> None:
    """Blocks in use are those that running requests hold, shared ones once."""
    replica = fleet.replicas[replica_id]
    cache = fleet.cache
    first = cache.replicas[replica_id].head
    references, distinct = 0, 0
    for node in range(first + 1, cache.replicas[replica_id].unused):
        if cache.nodes[node].references > 0:
            references += cache.nodes[node].references
            distinct += 1
    in_use = blocks - references + distinct
    assert in_use == kv_used_blocks(fleet, replica_id), "KV blocks in use differ from those requests hold"
    cached = cache.replicas[replica_id].cached_blocks
    assert cached >= 0, "cached blocks are fewer than none"
    assert replica.num_running + replica.kept_blocks > 0 or in_use == 0, "blocks are in use and nobody runs"
