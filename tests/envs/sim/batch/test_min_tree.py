"""The tree of minima, against a list."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.envs.sim.batch.min_tree import (
    NONE,
    first_at_most,
    first_at_most_from,
    first_smallest,
    new_tree,
    set_key,
    smallest_key,
)

KEYS = st.sampled_from([0.0, 1.0, 1.5, 2.0, math.inf])


@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 8), KEYS), max_size=20))
def test_is_a_list_of_keys(num_items: int, changes: list[tuple[int, float]]) -> None:
    tree, keys = new_tree(num_items), [math.inf] * num_items
    for item, key in changes:
        if item < num_items:
            set_key(tree, item, key)
            keys[item] = key
    assert tree[tree.size // 2 :][:num_items].tolist() == keys
    assert smallest_key(tree) == min(keys)
    assert first_smallest(tree) == (NONE if min(keys) == math.inf else keys.index(min(keys)))
    for limit in (-1.0, 0.0, 1.2, 5.0):
        found = [item for item, key in enumerate(keys) if key <= limit]
        assert first_at_most(tree, limit) == (found[0] if found else NONE)
        for start in range(num_items + 1):
            later = [item for item in found if item >= start]
            assert first_at_most_from(tree, start, limit) == (later[0] if later else NONE)


@pytest.mark.parametrize("num_items", [1, 2, 3, 1000])
def test_every_item_can_be_found(num_items: int) -> None:
    tree = new_tree(num_items)
    for item in np.random.default_rng(0).permutation(num_items).tolist():
        set_key(tree, item, 1.0)
        assert first_smallest(tree) == item
        set_key(tree, item, math.inf)
