"""The orders that a replica keeps: waiting queue, running and prefilling lists, heap of completions."""

import numpy as np

from servegym.costmodels.native.calls import call_at
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.engine import FCFS, PRIORITY, RANK
from servegym.envs.sim.llm.ranking_state import RANKS_QUEUE
from servegym.envs.sim.llm.search_tree import enter_tree, leave_tree
from servegym.envs.sim.llm.state import NOBODY, Fleet

REQUEST_BITS = 32
REQUEST_MASK = (1 << REQUEST_BITS) - 1


@kernel
def append_waiting(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Puts a request at the back of the waiting queue."""
    replica = fleet.replicas[replica_id]
    fleet.requests[request_id].next = NOBODY
    if replica.num_waiting == 0:
        replica.waiting_first = request_id
    else:
        fleet.requests[replica.waiting_last].next = request_id
    replica.waiting_last = request_id
    replica.num_waiting += 1


@kernel
def prepend_waiting(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Puts a (preempted) request at the front of the waiting queue."""
    replica = fleet.replicas[replica_id]
    if replica.num_waiting == 0:
        fleet.requests[request_id].next = NOBODY
        replica.waiting_last = request_id
    else:
        fleet.requests[request_id].next = replica.waiting_first
    replica.waiting_first = request_id
    replica.num_waiting += 1


@kernel
def pop_waiting(fleet: Fleet, replica_id: int) -> int:
    """Takes the request at the front of the (non-empty) waiting queue."""
    replica = fleet.replicas[replica_id]
    request_id = replica.waiting_first
    if fleet.engines[replica.group].order != FCFS and replica.waiting_root != NOBODY:
        leave_tree(fleet, replica_id, request_id)
    replica.waiting_first = fleet.requests[request_id].next
    replica.num_waiting -= 1
    return request_id


@routine
def insert_in_order(fleet: Fleet, replica_id: int, request_id: int, now_s: float) -> None:
    """A request enters, at `now_s`, a waiting queue that is not first come first served."""
    order = fleet.engines[fleet.replicas[replica_id].group].order
    if order == RANK and fleet.ranking.ranks == RANKS_QUEUE:
        call_at(fleet.ranking.write_key, (fleet, replica_id, request_id, now_s))
    elif order == PRIORITY:  # it may have had another key elsewhere
        fleet.requests[request_id].key = fleet.requests[request_id].priority
    insert_waiting(fleet, replica_id, request_id)


@routine
def insert_waiting(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Puts a request into its place in a waiting queue ordered by key."""
    replica = fleet.replicas[replica_id]
    if replica.num_waiting == 0:
        replica.waiting_root = NOBODY
    before = enter_tree(fleet, replica_id, request_id)
    if before == NOBODY:
        prepend_waiting(fleet, replica_id, request_id)
    elif before == replica.waiting_last:
        append_waiting(fleet, replica_id, request_id)
    else:
        fleet.requests[request_id].next = fleet.requests[before].next
        fleet.requests[before].next = request_id
        replica.num_waiting += 1


@routine
def insert_waiting_last_of_equals(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Puts a request into a waiting queue ordered by key, behind all of the same key."""
    replica = fleet.replicas[replica_id]
    key = fleet.requests[request_id].key
    if replica.num_waiting == 0 or fleet.requests[replica.waiting_last].key <= key:
        append_waiting(fleet, replica_id, request_id)
        return
    if key < fleet.requests[replica.waiting_first].key:
        prepend_waiting(fleet, replica_id, request_id)
        return
    before = replica.waiting_first
    while fleet.requests[fleet.requests[before].next].key <= key:
        before = fleet.requests[before].next
    fleet.requests[request_id].next = fleet.requests[before].next
    fleet.requests[before].next = request_id
    replica.num_waiting += 1


@routine
def remove_waiting(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Takes a request out of the waiting queue, wherever it stands."""
    replica = fleet.replicas[replica_id]
    if replica.waiting_first == request_id:
        pop_waiting(fleet, replica_id)
        return
    if fleet.engines[replica.group].order != FCFS and replica.waiting_root != NOBODY:
        before = leave_tree(fleet, replica_id, request_id)
    else:
        before = replica.waiting_first
        while fleet.requests[before].next != request_id:
            before = fleet.requests[before].next
    fleet.requests[before].next = fleet.requests[request_id].next
    if replica.waiting_last == request_id:
        replica.waiting_last = before
    replica.num_waiting -= 1


@kernel
def append_running(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Puts a request at the end of the running list."""
    insert_running_after(fleet, replica_id, request_id, fleet.replicas[replica_id].running_last)


@kernel
def insert_running_after(fleet: Fleet, replica_id: int, request_id: int, before: int) -> None:
    """Puts a request behind `before` in the running list; NOBODY: at its front."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    request.previous = before
    if before == NOBODY:
        request.next = replica.running_first
        replica.running_first = request_id
    else:
        request.next = fleet.requests[before].next
        fleet.requests[before].next = request_id
    if request.next == NOBODY:
        replica.running_last = request_id
    else:
        fleet.requests[request.next].previous = request_id
    replica.num_running += 1


@kernel
def remove_running(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Takes a request out of the running list, wherever it stands."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    if request.previous == NOBODY:
        replica.running_first = request.next
    else:
        fleet.requests[request.previous].next = request.next
    if request.next == NOBODY:
        replica.running_last = request.previous
    else:
        fleet.requests[request.next].previous = request.previous
    replica.num_running -= 1


@kernel
def append_prefilling(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Notes that a running request has a prefill to complete."""
    replica = fleet.replicas[replica_id]
    fleet.requests[request_id].next_prefilling = NOBODY
    if replica.num_prefilling == 0:
        replica.prefilling_first = request_id
    else:
        fleet.requests[replica.prefilling_last].next_prefilling = request_id
    replica.prefilling_last = request_id
    replica.num_prefilling += 1


@routine
def remove_prefilling(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Takes a request out of the prefilling list, wherever it stands."""
    replica = fleet.replicas[replica_id]
    following = fleet.requests[request_id].next_prefilling
    if replica.prefilling_first == request_id:
        replica.prefilling_first = following
    else:
        before = replica.prefilling_first
        while fleet.requests[before].next_prefilling != request_id:
            before = fleet.requests[before].next_prefilling
        fleet.requests[before].next_prefilling = following
        if replica.prefilling_last == request_id:
            replica.prefilling_last = before
    replica.num_prefilling -= 1


@kernel
def _sift_up(heap, position, key):
    while position > 0:
        parent = (position - 1) >> 1
        if heap[parent] <= key:
            break
        heap[position] = heap[parent]
        position = parent
    heap[position] = key


@kernel
def _sift_down(heap, size, position, key):
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[position] = heap[child]
        position = child
    heap[position] = key


@kernel
def push_due(heap: np.ndarray, size: int, due_iteration: int, request_id: int) -> None:
    """Adds a completion to a heap (int64, `size` entries in use)."""
    _sift_up(heap, size, (due_iteration << REQUEST_BITS) | request_id)


@kernel
def pop_due(heap: np.ndarray, size: int) -> int:
    """Removes the earliest completion from a heap of `size` entries; returns its request."""
    request_id = heap[0] & REQUEST_MASK
    _sift_down(heap, size - 1, 0, heap[size - 1])
    return request_id


@routine
def remove_due(heap: np.ndarray, size: int, request_id: int) -> None:
    """Removes the completion of one request from a heap of `size` entries."""
    position = 0
    while heap[position] & REQUEST_MASK != request_id:
        position += 1
    last = heap[size - 1]
    if position == size - 1:
        return
    if position > 0 and heap[(position - 1) >> 1] > last:
        _sift_up(heap, position, last)
    else:
        _sift_down(heap, size - 1, position, last)
