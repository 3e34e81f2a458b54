"""A tree of minima over a fixed number of keys: which is smallest, which is the first small enough.

A tree is one float64 array: item i is at `size // 2 + i`, a node holds the smaller of its two children. Keys
are inf at the start; changing one and asking take O(log n).
"""

import math

import numpy as np

from servegym.costmodels.native.jit import kernel

NONE = -1


def new_tree(num_items: int) -> np.ndarray:
    """Of `num_items` keys, all inf."""
    leaves = 1 << max(1, (num_items - 1).bit_length())
    return np.full(2 * leaves, math.inf)


@kernel
def set_key(tree: np.ndarray, item: int, key: float) -> None:
    """Changes the key of an item."""
    node = tree.size // 2 + item
    tree[node] = key
    while node > 1:
        parent = node // 2
        smaller = min(tree[2 * parent], tree[2 * parent + 1])
        if tree[parent] == smaller:
            break
        tree[parent] = smaller
        node = parent


@kernel
def smallest_key(tree: np.ndarray) -> float:
    """inf where all are."""
    return tree[1]


@kernel
def first_at_most(tree: np.ndarray, limit: float) -> int:
    """The first item whose key is at most `limit` (finite), NONE without one."""
    if not tree[1] <= limit:
        return NONE
    node = 1
    leaves = tree.size // 2
    while node < leaves:
        node = 2 * node if tree[2 * node] <= limit else 2 * node + 1
    return node - leaves


@kernel
def first_at_most_from(tree: np.ndarray, start: int, limit: float) -> int:
    """The first item from `start` on whose key is at most `limit` (finite), NONE without one."""
    leaves = tree.size // 2
    if start >= leaves:
        return NONE
    node = leaves + start
    while not tree[node] <= limit:
        while node % 2 == 1:  # nothing of its parent is to its right
            node //= 2
        if node == 0:
            return NONE
        node += 1
    while node < leaves:
        node = 2 * node if tree[2 * node] <= limit else 2 * node + 1
    return node - leaves


@kernel
def first_smallest(tree: np.ndarray) -> int:
    """The item with the smallest key, the first of equals; NONE where all are inf."""
    if tree[1] == math.inf:
        return NONE
    return first_at_most(tree, tree[1])
