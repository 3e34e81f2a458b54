"""The three orders a replica keeps: waiting queue, running list, and the heap of completions."""

import numpy as np

from servegym.costmodels.jit import kernel
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
    replica.waiting_first = fleet.requests[request_id].next
    replica.num_waiting -= 1
    return request_id


@kernel
def append_running(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Puts a request at the end of the running list."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    request.next = NOBODY
    request.previous = replica.running_last
    if replica.num_running == 0:
        replica.running_first = request_id
    else:
        fleet.requests[replica.running_last].next = request_id
    replica.running_last = request_id
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


@kernel
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
