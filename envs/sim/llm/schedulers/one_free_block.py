"""vLLM V0's rule for decodes, which Sarathi kept: one free block at each one's turn, even to take none."""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import preempt
from servegym.envs.sim.llm.memory import blocks_for, free_after_decodes, free_now
from servegym.envs.sim.llm.state import DECODING, NOBODY, Fleet
from servegym.envs.sim.llm.swapping import swap_out


@kernel
def serve_decodes(fleet: Fleet, replica_id: int) -> bool:
    """Serves all decodes in the order of the running list; True where one was preempted."""
    replica = fleet.replicas[replica_id]
    if replica.num_decodes == 0 or free_after_decodes(fleet, replica_id) > 0:
        return False
    return _serve_in_order(fleet, replica_id)


@routine
def _serve_in_order(fleet: Fleet, replica_id: int) -> bool:
    """While no block is free at a decode's turn, the last running request is preempted, at worst itself."""
    replica = fleet.replicas[replica_id]
    size = fleet.engines[replica.group].block_size
    preempted = False
    taken = 0
    request_id = replica.running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        following = request.next
        if request.state == DECODING:
            served = True
            while served and free_now(fleet, replica_id) - taken < 1:
                victim = replica.running_last
                served = victim != request_id
                _put_off(fleet, replica_id, victim)
                preempted = True
                if served:
                    following = request.next
            if served and (request.anchor + replica.iteration) % size == 0:
                taken += 1
        request_id = following
    return preempted


@kernel
def _put_off(fleet, replica_id, request_id):
    """Preempts by swapping where the host has room, else by recompute."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    request = fleet.requests[request_id]
    if engine.swap_blocks > 0:
        blocks = blocks_for(request.anchor + replica.iteration, engine.block_size)
        if replica.swap_used_blocks + blocks <= engine.swap_blocks:
            swap_out(fleet, replica_id, request_id)
            return
    preempt(fleet, replica_id, request_id)
