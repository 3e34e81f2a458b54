"""The prefix cache: the queue of free blocks, and what requests find in it, worked out by hand."""

from types import SimpleNamespace

import pytest

from tests.reference.blocks import BlockPool
from tests.reference.engine import Engine
from tests.reference.hand import batches, kv_used, prefixes, run
from tests.reference.request import Request, requests_of


def request_of(**columns):
    return Request(**{"index": 0, "arrival_s": 0, "output_tokens": 1, "max_output_tokens": 1, **columns})


# Blocks.


def test_freed_blocks_blank_in_front_cached_behind_the_deepest_first():
    pool = BlockPool(5, sharing=True)
    one, two, three, four, five = pool.free
    table = pool.take(3)
    pool.publish(table, ["x", "y"])
    pool.give_back(table)
    assert pool.free == [three, four, five, two, one]
    pool.take(4)  # evicts y
    assert pool.lookup(["x", "y"]) == [one]
    assert pool.lookup(["y"]) == []


def test_lookup_ends_at_the_first_miss():
    pool = BlockPool(4, sharing=True)
    table = pool.take(3)
    pool.publish(table, ["x", "y", "z"])
    assert pool.lookup(["x", "other", "z"]) == table[:1]


def test_hit_leaves_the_queue_and_returns_as_the_last():
    pool = BlockPool(3, sharing=True)
    tables = [pool.take(1) for _ in range(3)]
    for table, content in zip(tables, "xyz", strict=True):
        pool.publish(table, [content])
        pool.give_back(table)
    assert pool.free == tables[0] + tables[1] + tables[2]
    pool.hold(tables[0])
    assert pool.free == tables[1] + tables[2]
    pool.give_back(tables[0])
    assert pool.free == tables[1] + tables[2] + tables[0]


def test_block_shared_by_two_is_free_when_both_have_given_it_back():
    pool = BlockPool(2, sharing=True)
    table = pool.take(1)
    pool.publish(table, ["x"])
    pool.hold(table)
    assert pool.used == 1
    pool.give_back(table)
    assert pool.used == 1
    pool.give_back(table)
    assert pool.used == 0


def test_of_equal_contents_the_older_is_found_while_it_lasts():
    pool = BlockPool(2, sharing=True)
    older, newer = pool.take(1), pool.take(1)
    pool.publish(older, ["x"])
    pool.publish(newer, ["x"])
    assert pool.lookup(["x"]) == older
    pool.give_back(older)
    pool.take(1)
    assert pool.lookup(["x"]) == newer


# Contents.


def test_contents_are_shared_where_ids_cover_a_block_of_the_prompt():
    # Ids of 4 tokens, blocks of 2. The prompt of 9 ends in the middle of the fifth block.
    request = request_of(prompt_tokens=9, output_tokens=3, prefix_ids=(7, 8, 9), prefix_block_tokens=4)
    assert request.contents(2) == [
        ("shared", 7, 0),
        ("shared", 7, 2),
        ("shared", 8, 0),
        ("shared", 8, 2),
        ("private", 0, 4),
        ("private", 0, 5),
    ]


def test_contents_of_a_follow_up_are_its_parents_as_long_as_those_last():
    # The parent has 7 + 4 tokens: 5 blocks of 2. Two follow-ups diverge after them.
    workload = SimpleNamespace(
        arrival_s=[0, 0, 0],
        prompt_tokens=[7, 14, 14],
        output_tokens=[4, 1, 1],
        parent=[-1, 0, 0],
        think_s=[0, 0, 0],
    )
    parent, one, other = requests_of(workload)
    assert one.contents(2)[:5] == other.contents(2)[:5] == parent.contents(2)
    assert not set(one.contents(2)[5:]) & set(other.contents(2)[5:])


def test_contents_differ_behind_a_difference():
    workload = SimpleNamespace(
        arrival_s=[0, 0],
        prompt_tokens=[8, 10],
        output_tokens=[1, 1],
        parent=[-1, 0],
        think_s=[0, 0],
        **prefixes((1,), (2,), block_tokens=4),
    )
    parent, follow_up = requests_of(workload)
    assert parent.contents(4)[1] != follow_up.contents(4)[1]


# Requests.


def caching(*sizes, **settings):
    return Engine(*sizes, prefix_caching=True, **settings)


def test_prefix_computed_in_the_same_pass_is_hit_and_counted_once():
    result = run([(0, 9, 1), (0, 10, 1)], caching(32, 4, 4, 9), **prefixes((1, 2), (1, 2), block_tokens=4))
    assert batches(result) == ["A9@0 B2@8"]
    assert kv_used(result) == [4]
    assert result.hit_tokens.tolist() == [0, 8]
    assert [e.hit_tokens for e in result.iterations[0][0].entries] == [0, 8]


def test_last_block_of_a_prompt_that_is_cached_whole_is_computed_again():
    result = run([(0, 8, 1), (1, 8, 1)], caching(32, 4, 4, 9), **prefixes((1, 2), (1, 2), block_tokens=4))
    assert batches(result) == ["A8@0", "B4@4"]


def test_same_prompts_in_chunks_are_computed_twice_and_both_are_kept():
    # Budget 4, chunks of 2. B finds the block that A fills in the same pass, and overtakes it: A, which is
    # running, looks nothing up and computes the other two blocks once more. C finds those of B.
    engine = caching(4, 4, 2, 12, long_prefill_token_threshold=2)
    result = run(
        [(0, 6, 1), (0, 6, 1), (3, 7, 1)], engine, **prefixes((1, 2, 3), (1, 2, 3), (1, 2, 3), block_tokens=2)
    )
    assert batches(result) == ["A2@0 B2@2", "A2@2 B2@4", "A2@4", "C1@6"]
    assert kv_used(result) == [2, 4, 3, 4]


def test_a_block_that_holds_output_is_hit_by_the_follow_up():
    # 6 + 3 tokens, 8 of them in the cache: two blocks of 4. The follow-up comes 2 s after the finish.
    result = run([(0, 6, 3), (0, 11, 1)], caching(32, 4, 4, 9), parent=[-1, 0], think_s=[0, 2])
    assert batches(result) == ["A6@0", "a@6", "a@7", "B3@8"]
    assert result.scheduled_s.tolist() == [0, 5]
    assert result.first_token_s[1] - result.scheduled_s[1] == 1


def test_preempted_request_finds_what_is_left_of_its_blocks():
    # 4 blocks of 2. [2, 3] B preempts itself; its two full blocks stay cached, the second in front.
    # [3, 4] A takes that one. [5, 6] B finds its first block, and computes 3 of 5 tokens.
    result = run([(0, 2, 5), (0, 3, 3)], caching(8, 4, 2, 4))
    assert batches(result) == ["A2@0 B3@0", "a@2 b@3", "a@3", "a@4", "a@5", "B3@2"]
    assert result.hit_tokens.tolist() == [0, 2]


def test_free_hit_blocks_count_as_taken_at_admission():
    # 3 blocks of 2. A leaves two cached. B takes one block, and grows. C would need 3 blocks: 2 hits, which
    # are free, and 1 more; 2 are free, so it waits for B.
    result = run(
        [(0, 5, 1), (1, 1, 2), (1, 5, 1)],
        caching(8, 4, 2, 3),
        **prefixes((1, 2), (), (1, 2), block_tokens=2),
    )
    assert batches(result) == ["A5@0", "B1@0", "b@1", "C1@4"]


def test_victim_keeps_blocks_that_were_filled_in_its_last_iteration_as_full():
    # 9 blocks of 2, chunks of 4. [2, 3] A is served with its tokens 12 to 15, two blocks, and then preempted
    # for B, which takes the deeper one. The other counts as full: A comes back with 14 tokens.
    engine = caching(8, 4, 2, 9, order="priority", long_prefill_token_threshold=4)
    result = run([(0, 18, 1), (0.5, 2, 2)], engine, priority=[1, 0])
    assert batches(result) == ["A8@0", "A4@8 B2@0", "b@2", "A4@14"]


@pytest.mark.parametrize(("prefix_caching", "expected"), [(True, [0, 4, 2]), (False, [0, 0, 0])])
def test_router_sees_how_much_of_the_request_is_cached(prefix_caching, expected):
    result = run(
        [(0, 7, 1), (0.5, 6, 1), (0.5, 4, 1)],
        Engine(32, 4, 2, 9, prefix_caching=prefix_caching),
        columns="all",
        **prefixes((1, 2, 3), (1, 2), (1, 2), block_tokens=2),
    )
    assert [view[0, 11] for view in result.views] == expected
