"""vLLM V1's mechanism without its choices: a caller says who is admitted, preempted and prefilled.

docs/simulator.md, "Scheduler: agent". While a decision is due the replica stands still; decisions.py applies
what the caller decides.
"""

import math

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import give_chunk, known_tokens, preempt
from servegym.envs.sim.llm.memory import blocks_for, free_after_decodes
from servegym.envs.sim.llm.schedulers import vllm_v1
from servegym.envs.sim.llm.state import Fleet


@kernel
def decision_due(fleet: Fleet, replica_id: int) -> bool:
    """Whether somebody waits or is prefilling at the start of an iteration."""
    replica = fleet.replicas[replica_id]
    return replica.num_waiting + replica.num_prefilling > 0


@kernel
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch together; an empty one, which is not started, where a decision is due."""
    if decision_due(fleet, replica_id):
        fleet.replicas[replica_id].decodes_run = 0
    else:
        put_together(fleet, replica_id, 1.0)


@kernel
def horizon(fleet: Fleet, replica_id: int) -> int:
    """For how many iterations from now the replica does nothing but decode the same batch."""
    return 0 if decision_due(fleet, replica_id) else vllm_v1.horizon(fleet, replica_id)


@routine
def put_together(fleet: Fleet, replica_id: int, share: float) -> None:
    """All decodes, and prefills in order of admission within `share` of the budget that these leave.

    Where blocks are lacking for that, the last running requests are preempted until they suffice.
    """
    replica = fleet.replicas[replica_id]
    replica.num_admitted = 0
    while unclaimed(fleet, replica_id, share)[1] < 0:
        preempt(fleet, replica_id, replica.running_last)
    size = fleet.engines[replica.group].block_size
    budget = _prefill_budget(fleet, replica_id, share)
    request_id = replica.prefilling_first
    for _ in range(replica.num_prefilling):
        if budget == 0:
            break
        request = fleet.requests[request_id]
        chunk = min(known_tokens(fleet, request_id) - request.computed, budget)
        lacking = blocks_for(request.computed + chunk, size) - request.blocks
        request.blocks += lacking
        replica.prefill_blocks += lacking
        give_chunk(fleet, replica_id, request_id, chunk)
        budget -= chunk
        request_id = request.next_prefilling


@kernel
def unclaimed(fleet: Fleet, replica_id: int, share: float) -> tuple[int, int]:
    """Prefill tokens and KV blocks that the running requests would leave over in the next iteration.

    Blocks are below 0 where they lack some.
    """
    replica = fleet.replicas[replica_id]
    size = fleet.engines[replica.group].block_size
    budget = _prefill_budget(fleet, replica_id, share)
    free = free_after_decodes(fleet, replica_id)
    request_id = replica.prefilling_first
    for _ in range(replica.num_prefilling):
        if budget == 0:
            break
        request = fleet.requests[request_id]
        chunk = min(known_tokens(fleet, request_id) - request.computed, budget)
        free -= blocks_for(request.computed + chunk, size) - request.blocks
        budget -= chunk
        request_id = request.next_prefilling
    return budget, free


@kernel
def _prefill_budget(fleet, replica_id, share):
    """Rounded up, so that a share above 0 is at least a token (a seat is never without one)."""
    replica = fleet.replicas[replica_id]
    most = fleet.engines[replica.group].max_num_batched_tokens - replica.num_decodes
    return math.ceil(share * most)


@kernel
def blocks_to_admit(fleet: Fleet, replica_id: int, request_id: int, tokens: int) -> int:
    """KV blocks that must be free for a waiting request, of which `tokens` at most would be computed."""
    engine = fleet.engines[fleet.replicas[replica_id].group]
    known = known_tokens(fleet, request_id)
    return blocks_for(known if engine.reserve_full_prompt else min(known, tokens), engine.block_size)


@kernel
def may_admit(fleet: Fleet, replica_id: int, request_id: int, tokens: int, blocks: int) -> bool:
    """Whether a waiting request can be admitted, with what is `unclaimed` at share 1."""
    replica = fleet.replicas[replica_id]
    seat = replica.num_running < fleet.engines[replica.group].max_num_seqs
    return seat and tokens > 0 and blocks_to_admit(fleet, replica_id, request_id, tokens) <= blocks


@kernel
def may_run(fleet: Fleet, replica_id: int, share: float) -> bool:
    """Whether an iteration can start with this share: it would not be empty."""
    replica = fleet.replicas[replica_id]
    if share > 0:
        return replica.num_running > 0
    return replica.num_decodes > 0 and free_after_decodes(fleet, replica_id) >= 0
