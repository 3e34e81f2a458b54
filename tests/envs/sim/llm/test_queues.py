"""The heap of completions, and the queue by key, against sorted lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.queues import (
    REQUEST_BITS,
    REQUEST_MASK,
    insert_waiting,
    pop_due,
    pop_waiting,
    push_due,
    remove_due,
    remove_waiting,
)
from servegym.envs.sim.llm.setup import ReplicaSpec, new_fleet
from servegym.envs.sim.llm.state import NOBODY, Fleet
from tests.conftest import examples


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["push", "pop", "remove"])), max_size=60))
def test_heap_is_a_sorted_list(actions: list[tuple[int, str]]) -> None:
    """Any sequence of pushes, pops and removals leaves what a sorted list would hold."""
    heap = np.zeros(64, np.int64)
    model: list[tuple[int, int]] = []
    for request_id, (due, action) in enumerate(actions):
        if action == "push":
            push_due(heap, len(model), due, request_id)
            model.append((due, request_id))
        elif model and action == "pop":
            assert pop_due(heap, len(model)) == min(model)[1]
            model.remove(min(model))
        elif model:
            victim = model[due % len(model)]
            remove_due(heap, len(model), victim[1])
            model.remove(victim)
        in_use = heap[: len(model)]
        assert sorted(zip(in_use >> REQUEST_BITS, in_use & REQUEST_MASK, strict=True)) == sorted(model)
        assert all(in_use[(child - 1) // 2] <= in_use[child] for child in range(1, len(model)))


@examples(60)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["in", "in", "pop", "remove"])), max_size=60))
def test_queue_by_key_is_a_sorted_list(actions: list[tuple[int, str]]) -> None:
    """Any sequence of insertions, pops and removals leaves the order of key, arrival and number."""
    engine = Engine(max_num_batched_tokens=8, max_num_seqs=2, num_kv_blocks=8, order="priority")
    cost = linear_iteration_cost(max_num_batched_tokens=8, max_num_seqs=2, overhead_s=1.0)
    fleet = new_fleet([ReplicaSpec(engine, cost)], 60)
    replica, requests = fleet.replicas[0], fleet.requests
    model: list[tuple[int, float, int]] = []
    for request_id, (key, action) in enumerate(actions):
        if action == "in":
            requests[request_id].key, requests[request_id].arrival_s = key, request_id // 2
            insert_waiting(fleet, 0, request_id)
            model = sorted([*model, (key, request_id // 2, request_id)])
        elif model and action == "pop":
            assert pop_waiting(fleet, 0) == model.pop(0)[2]
        elif model:
            remove_waiting(fleet, 0, model.pop(key % len(model))[2])
        assert replica.num_waiting == len(model)
        assert _waiting(fleet) == [request_id for _, _, request_id in model]
        assert _depth(fleet, replica.waiting_root if model else NOBODY) <= len(model)


def test_long_queues_have_short_branches() -> None:
    """Also where requests come in the order of the queue."""
    engine = Engine(max_num_batched_tokens=8, max_num_seqs=2, num_kv_blocks=8, order="priority")
    cost = linear_iteration_cost(max_num_batched_tokens=8, max_num_seqs=2, overhead_s=1.0)
    fleet = new_fleet([ReplicaSpec(engine, cost)], 4096)
    for request_id in range(4096):
        insert_waiting(fleet, 0, request_id)
    assert _depth(fleet, fleet.replicas[0].waiting_root) < 48  # 12 at best, 4096 without balance


def _waiting(fleet: Fleet) -> list[int]:
    replica = fleet.replicas[0]
    found, request_id = [], replica.waiting_first
    for _ in range(replica.num_waiting):
        found.append(int(request_id))
        request_id = fleet.requests[request_id].next
    assert not found or found[-1] == replica.waiting_last
    return found


def _depth(fleet: Fleet, root: int) -> int:
    """Of the tree; each of its requests is met once."""
    depth, level = 0, [root] if root != NOBODY else []
    while level:
        depth += 1
        below = [child for at in level for child in (fleet.requests[at].left, fleet.requests[at].right)]
        level = [child for child in below if child != NOBODY]
    return depth
