"""Multi-bin batching: batches run to completion, each of requests from one bin, which is their key.

Guldogan et al., "Multi-Bin Batching for Increasing LLM Inference Throughput", 2024 (arXiv 2412.04504).
"""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.schedulers.static import begin, horizon, with_one_more
from servegym.envs.sim.llm.search_tree import arrived_before
from servegym.envs.sim.llm.state import NOBODY, Fleet

__all__ = ["horizon", "start"]


@routine
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch together: a bin where nobody runs, else all decodes."""
    replica = fleet.replicas[replica_id]
    if replica.num_running > 0:
        return
    request_id = _first_of_next_bin(fleet, replica_id)
    tokens, blocks = 0, 0
    key = fleet.requests[request_id].key
    while request_id != NOBODY and fleet.requests[request_id].key == key:
        tokens, blocks = with_one_more(fleet, replica_id, request_id, tokens, blocks)
        if tokens < 0:
            return
        following = fleet.requests[request_id].next
        begin(fleet, replica_id, request_id)
        request_id = following


@kernel
def _first_of_next_bin(fleet, replica_id):
    """The first of the bin that was complete first; of the bin of the earliest arrival where none is."""
    replica = fleet.replicas[replica_id]
    seats = fleet.engines[replica.group].max_num_seqs
    complete, completed_by, earliest = NOBODY, NOBODY, NOBODY
    first, size = NOBODY, 0
    request_id = replica.waiting_first
    for _ in range(replica.num_waiting):
        request = fleet.requests[request_id]
        if first == NOBODY or request.key != fleet.requests[first].key:
            first, size = request_id, 0
            if earliest == NOBODY or arrived_before(fleet, first, earliest):
                earliest = first
        size += 1
        if size == seats and (completed_by == NOBODY or arrived_before(fleet, request_id, completed_by)):
            complete, completed_by = first, request_id
        request_id = request.next
    return earliest if complete == NOBODY else complete
