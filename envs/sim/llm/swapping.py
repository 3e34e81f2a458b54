"""Preemption by swapping: the KV of a decode goes to the host and comes back; vLLM's V0 engine does it."""

from servegym.costmodels.native.jit import routine
from servegym.envs.sim.llm.batch import insert_running_by_arrival, join_decodes, leave_running
from servegym.envs.sim.llm.log import SWAP, log_preemption
from servegym.envs.sim.llm.memory import blocks_for
from servegym.envs.sim.llm.search_tree import arrived_before
from servegym.envs.sim.llm.state import NOBODY, SWAPPED, Fleet


@routine
def swap_out(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """A decode's KV goes to the host, which has room for it."""
    computed = leave_running(fleet, replica_id, request_id)
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    engine = fleet.engines[replica.group]
    request.preemptions += 1
    log_preemption(fleet.log, replica.clock_s, replica_id, request_id, SWAP)
    request.state = SWAPPED
    request.computed = computed
    request.blocks = blocks_for(computed, engine.block_size)
    replica.swap_used_blocks += request.blocks
    replica.num_swapped += 1
    replica.batch_s += request.blocks * engine.swap_s_per_block
    before, following = NOBODY, replica.swapped_first
    while following != NOBODY and arrived_before(fleet, following, request_id):
        before, following = following, fleet.requests[following].next
    request.next = following
    if before == NOBODY:
        replica.swapped_first = request_id
    else:
        fleet.requests[before].next = request_id


@routine
def swap_in(fleet: Fleet, replica_id: int) -> None:
    """The first of the swapped-out requests decodes again, from this batch on."""
    replica = fleet.replicas[replica_id]
    request_id = replica.swapped_first
    request = fleet.requests[request_id]
    engine = fleet.engines[replica.group]
    replica.swapped_first = request.next
    replica.num_swapped -= 1
    replica.swap_used_blocks -= request.blocks
    replica.batch_s += request.blocks * engine.swap_s_per_block
    insert_running_by_arrival(fleet, replica_id, request_id)
    due = replica.iteration + request.output_tokens - request.generated
    join_decodes(fleet, replica_id, request_id, request.computed, due)
