"""Preemption by swapping: the KV of a decode goes to the host and comes back."""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import insert_running_by_arrival, join_decodes, leave_running
from servegym.envs.sim.llm.log import SWAP, log_preemption
from servegym.envs.sim.llm.memory import blocks_for
from servegym.envs.sim.llm.queues import append_running
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
    _move(fleet, replica_id, request_id)
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
    """The first of the swapped-out requests decodes again, in its place by arrival, from this batch on."""
    request_id = fleet.replicas[replica_id].swapped_first
    _return_from_host(fleet, replica_id, request_id)
    insert_running_by_arrival(fleet, replica_id, request_id)


@routine
def swap_in_last(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """A swapped-out request decodes again, as the last of the running ones, from this batch on."""
    _return_from_host(fleet, replica_id, request_id)
    append_running(fleet, replica_id, request_id)


@routine
def leave_swapped(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Takes a request out of those on the host."""
    replica = fleet.replicas[replica_id]
    before, other = NOBODY, replica.swapped_first
    while other != request_id:
        before, other = other, fleet.requests[other].next
    if before == NOBODY:
        replica.swapped_first = fleet.requests[request_id].next
    else:
        fleet.requests[before].next = fleet.requests[request_id].next
    replica.num_swapped -= 1
    replica.swap_used_blocks -= fleet.requests[request_id].blocks


@kernel
def _return_from_host(fleet, replica_id, request_id):
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    leave_swapped(fleet, replica_id, request_id)
    _move(fleet, replica_id, request_id)
    due = replica.iteration + request.output_tokens - request.generated
    join_decodes(fleet, replica_id, request_id, request.computed, due)


@kernel
def _move(fleet, replica_id, request_id):
    """The iteration waits for the blocks that are moved, or they move beside it."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    seconds = fleet.requests[request_id].blocks * engine.swap_s_per_block
    if engine.swap_ahead_blocks > 0:
        replica.beside_s += seconds
    else:
        replica.batch_s += seconds
