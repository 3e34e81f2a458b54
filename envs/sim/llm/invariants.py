"""What must hold of a replica at any time, recomputed from its lists. For tests and debugging."""

from servegym.costmodels.jit import jit
from servegym.envs.sim.llm.memory import blocks_for, kv_used_blocks
from servegym.envs.sim.llm.state import NOBODY, Fleet


@jit
def check_replica(fleet: Fleet, replica_id: int) -> None:
    """Raises AssertionError naming the first invariant of docs/simulator.md that does not hold."""
    replica = fleet.replicas[replica_id]
    assert 0 <= kv_used_blocks(fleet, replica_id) <= fleet.num_kv_blocks, "KV blocks in use exceed the cache"
    assert replica.num_running <= fleet.max_num_seqs, "more requests run than max_num_seqs"
    assert replica.num_unfinished == replica.num_running + replica.num_waiting, "a request is lost"

    blocks, context, running, decodes, prompts, predicted = 0, 0, 0, 0, 0, 0
    joining = False
    request_id = replica.running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        joining = joining or (replica.num_joining > 0 and request_id == replica.joining_first)
        prompts += request.prompt_tokens
        predicted += request.predicted_tokens
        if request_id == replica.partial:
            blocks += blocks_for(replica.partial_computed_next, fleet.block_size)
        elif joining:
            blocks += blocks_for(request.prompt_tokens + request.generated, fleet.block_size)
        else:
            computed = request.anchor + replica.iteration
            context += computed
            blocks += blocks_for(computed + replica.in_flight, fleet.block_size)
            decodes += 1
        running += 1
        request_id = request.next
    assert running == replica.num_running, "the running list and its length differ"
    assert decodes == replica.num_decodes, "the decodes in the running list and their number differ"
    assert blocks == kv_used_blocks(fleet, replica_id), (
        "KV blocks in use differ from those the running requests hold"
    )
    assert context == replica.context_offset + decodes * replica.iteration, "decode context tokens differ"

    waiting_tokens = 0
    request_id = replica.waiting_first
    for _ in range(replica.num_waiting):
        request = fleet.requests[request_id]
        waiting_tokens += request.prompt_tokens + request.generated
        prompts += request.prompt_tokens
        predicted += request.predicted_tokens
        request_id = request.next
    assert waiting_tokens == replica.waiting_tokens, "tokens in the waiting queue differ"
    assert prompts == replica.prompt_tokens, "prompt tokens are lost or made up"
    assert predicted == replica.predicted_tokens, "predicted tokens are lost or made up"
