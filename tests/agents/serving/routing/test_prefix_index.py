"""Which replica has which prefix: against counting it for every replica."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from servegym.agents.serving.routing.prefix_index import PrefixIndex
from tests.conftest import examples

REPLICAS, BLOCK_TOKENS, MOST = 3, 64, 6


def _chain(path: list[int]) -> list[int]:
    """Hashes of the blocks of a prompt: each stands for itself and all before it."""
    hashes, whole = [], 1
    for block in path:
        whole = 7 * whole + block + 1
        hashes.append(whole)
    return hashes


PROMPTS = st.lists(st.integers(0, 2), max_size=5).map(_chain)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "add", "forget", "move"]), st.integers(0, 2), PROMPTS)
)


def _hits(index: PrefixIndex, prompt: list[int]) -> list[float]:
    hits = np.full(REPLICAS, -1.0, np.float32)
    index.write_hits(prompt, hits)
    return hits.tolist()


@examples(300)
@given(EVENTS, PROMPTS)
def test_hits_are_the_blocks_that_a_prompt_begins_with(
    events: list[tuple[str, int, list[int]]], prompt: list[int]
) -> None:
    """Each replica has the blocks most recently used there, `MOST` at most."""
    index = PrefixIndex(REPLICAS, BLOCK_TOKENS, MOST)
    kept: list[list[int]] = [[] for _ in range(REPLICAS)]  # most recent last
    for what, replica, blocks in events:
        if what == "add":
            index.add(replica, blocks)
            kept[replica] = [b for b in kept[replica] if b not in blocks] + blocks
            kept[replica] = kept[replica][-MOST:]
        elif what == "forget":
            index.forget(replica)
            kept[replica] = []
        else:  # the one before takes its place, another is new there
            old = [(i + 1) % REPLICAS for i in range(REPLICAS)]
            index = index.moved([None if i == replica else old[i] for i in range(REPLICAS)])
            kept = [[] if i == replica else kept[old[i]] for i in range(REPLICAS)]
        due = []
        for blocks_there in kept:
            held = 0
            while held < len(prompt) and prompt[held] in blocks_there:
                held += 1
            due.append(float(BLOCK_TOKENS * held))
        assert _hits(index, prompt) == due


def test_memory_is_bounded_and_comes_back() -> None:
    index = PrefixIndex(2, BLOCK_TOKENS, 100)
    for i in range(1000):
        index.add(i % 2, list(range(10 * i, 10 * i + 10)))
    assert len(index._holders) == 200  # what holds the memory
    for replica in range(2):
        index.forget(replica)
    assert not index._holders


def test_many_replicas() -> None:
    index = PrefixIndex(300, 16, 10)
    index.add(299, [1, 2, 3])
    index.add(64, [1])
    hits = np.zeros(300)
    index.write_hits([1, 2, 9], hits)
    assert {i: hits[i] for i in np.flatnonzero(hits)} == {64: 16, 299: 32}
