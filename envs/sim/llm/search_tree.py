"""A waiting queue ordered by key as a search tree, beside its list: a place is found in logarithmic time.

The tree is a treap (Seidel and Aragon, "Randomized search trees", Algorithmica 1996): in the order of the
queue from left to right, and by a random rank from the root down, which makes long branches improbable.
"""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.state import NOBODY, Fleet


@kernel
def comes_before(fleet: Fleet, request_id: int, other_id: int) -> bool:
    """Whether a request stands before another one in a queue that is ordered by key."""
    request, other = fleet.requests[request_id], fleet.requests[other_id]
    if request.key != other.key:
        return request.key < other.key
    return arrived_before(fleet, request_id, other_id)


@kernel
def arrived_before(fleet: Fleet, request_id: int, other_id: int) -> bool:
    """Whether a request arrived before another one; at one instant, in the order of the workload."""
    request, other = fleet.requests[request_id], fleet.requests[other_id]
    if request.arrival_s != other.arrival_s:
        return request.arrival_s < other.arrival_s
    return request_id < other_id


@kernel
def _rank(request_id):
    """Multiplicative hashing: as good as random, and no state."""
    return (np.int64(request_id) * 2654435761) & 0xFFFFFFFF


@kernel
def _attach(fleet, replica_id, parent, on_right, request_id):
    """Makes a request (or NOBODY) the child of another, or the root where there is no parent."""
    if parent == NOBODY:
        fleet.replicas[replica_id].waiting_root = request_id
    elif on_right:
        fleet.requests[parent].right = request_id
    else:
        fleet.requests[parent].left = request_id


@routine
def enter_tree(fleet: Fleet, replica_id: int, request_id: int) -> int:
    """Adds a request; returns the one just before it in the queue, or NOBODY."""
    before, parent, on_right = NOBODY, NOBODY, False
    below = fleet.replicas[replica_id].waiting_root
    while below != NOBODY and _rank(below) > _rank(request_id):
        parent = below
        on_right = comes_before(fleet, below, request_id)
        if on_right:
            before = below
            below = fleet.requests[below].right
        else:
            below = fleet.requests[below].left
    _attach(fleet, replica_id, parent, on_right, request_id)
    # What was there is split: earlier ones to the left, later ones to the right of the new request.
    last_earlier, last_later = request_id, request_id
    while below != NOBODY:
        if comes_before(fleet, below, request_id):
            before = below
            _attach(fleet, replica_id, last_earlier, last_earlier != request_id, below)
            last_earlier = below
            below = fleet.requests[below].right
        else:
            _attach(fleet, replica_id, last_later, last_later == request_id, below)
            last_later = below
            below = fleet.requests[below].left
    _attach(fleet, replica_id, last_earlier, last_earlier != request_id, NOBODY)
    _attach(fleet, replica_id, last_later, last_later == request_id, NOBODY)
    return before


@routine
def leave_tree(fleet: Fleet, replica_id: int, request_id: int) -> int:
    """Removes a request; returns the one just before it in the queue, or NOBODY."""
    before, parent, on_right = NOBODY, NOBODY, False
    at = fleet.replicas[replica_id].waiting_root
    while at != request_id:
        parent = at
        on_right = comes_before(fleet, at, request_id)
        if on_right:
            before = at
            at = fleet.requests[at].right
        else:
            at = fleet.requests[at].left
    earlier, later = fleet.requests[request_id].left, fleet.requests[request_id].right
    at = earlier
    while at != NOBODY:
        before = at
        at = fleet.requests[at].right
    while earlier != NOBODY or later != NOBODY:
        if later == NOBODY or (earlier != NOBODY and _rank(earlier) > _rank(later)):
            _attach(fleet, replica_id, parent, on_right, earlier)
            parent, on_right = earlier, True
            earlier = fleet.requests[earlier].right
        else:
            _attach(fleet, replica_id, parent, on_right, later)
            parent, on_right = later, False
            later = fleet.requests[later].left
    _attach(fleet, replica_id, parent, on_right, NOBODY)
    return before
