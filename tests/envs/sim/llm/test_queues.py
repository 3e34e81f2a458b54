"""The heap of completions against a sorted list."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from servegym.envs.sim.llm.queues import REQUEST_BITS, REQUEST_MASK, pop_due, push_due, remove_due


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
