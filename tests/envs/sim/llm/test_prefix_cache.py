"""The prefix cache against a pool of physical blocks that follows vLLM's rules one block at a time."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from servegym.envs.sim.llm.prefix_cache import evict_to_fit, give_back, lookup, publish, take_hits
from servegym.envs.sim.llm.prefix_state import (
    NO_KEY,
    PrefixCache,
    clear_cache,
    load_contents,
    new_prefix_cache,
)
from tests.conftest import examples

NOWHERE = -1
Content = tuple[str, int, int]  # ("shared", key, 0) or ("private", chain, position)


class BlockPool:
    """Physical blocks one by one: a list as free queue, a dict from content to blocks."""

    def __init__(self, num_blocks: int) -> None:
        self.queue = list(range(num_blocks))
        self.content: dict[int, Content] = {}
        self.blocks_of: dict[Content, list[int]] = {}
        self.references = [0] * num_blocks
        self.table: dict[int, list[int]] = {}

    def lookup(self, contents: list[Content], most: int) -> list[int]:
        """Shared content: the oldest block that has it. Private: the youngest (`take_hits` says why)."""
        found: list[int] = []
        for content in contents[:most]:
            blocks = self.blocks_of.get(content)
            if not blocks:
                break
            found.append(blocks[0] if content[0] == "shared" else blocks[-1])
        return found

    def admit(self, request_id: int, hits: list[int]) -> None:
        for block in hits:
            if self.references[block] == 0:
                self.queue.remove(block)
            self.references[block] += 1
        self.table[request_id] = list(hits)

    def grow(self, request_id: int, num_blocks: int) -> None:
        while len(self.table[request_id]) < num_blocks:
            block = self.queue.pop(0)
            if block in self.content:
                self.blocks_of[self.content.pop(block)].remove(block)
            self.references[block] = 1
            self.table[request_id].append(block)

    def publish(self, request_id: int, contents: list[Content]) -> None:
        for block, content in zip(self.table[request_id], contents, strict=False):
            if block not in self.content:
                self.content[block] = content
                self.blocks_of.setdefault(content, []).append(block)

    def free(self, request_id: int) -> None:
        blank: list[int] = []
        cached: list[int] = []
        for block in reversed(self.table.pop(request_id)):
            self.references[block] -= 1
            if self.references[block] == 0:
                (cached if block in self.content else blank).append(block)
        self.queue = blank + self.queue + cached

    def queued_contents(self) -> list[Content | None]:
        return [self.content.get(block) for block in self.queue]


@dataclass
class Request:
    """A request as the engine knows it. `chunk` tokens are scheduled and not yet computed."""

    prompt: int
    output: int
    shared_keys: list[int]
    chain: int
    parent: int
    state: str = "waiting"
    replica: int = NOWHERE  # where it was sent; it stays until that replica fails or it is moved
    generated: int = 0
    computed: int = 0
    chunk: int = 0
    decoding: bool = False  # has sampled a token since it was last admitted

    @property
    def known(self) -> int:
        return self.prompt + self.generated


class Case(NamedTuple):
    block_size: int
    num_kv_blocks: list[int]
    requests: list[Request]


def random_case(seed: int) -> Case:
    """Three families of prompts that share beginnings, sessions of up to three turns, scarce blocks."""
    rng = np.random.default_rng(seed)
    block_size = int(rng.choice([1, 2, 4]))
    family_keys = [100 * family + np.arange(6) for family in range(3)]
    family_keys[1][:2] = family_keys[0][:2]
    spread = int(rng.choice([1, 7 << 31, 1 << 20]))  # keys that differ in low or in high bits only
    requests: list[Request] = []
    while len(requests) < 12:
        keys = family_keys[rng.integers(3)] * spread
        num_shared = int(rng.integers(0, 7))
        parent, history = -1, 0
        for _ in range(rng.integers(1, 4)):
            prompt = max(history, num_shared * block_size) + int(rng.integers(1, 2 * block_size + 2))
            output = int(rng.integers(1, 2 * block_size + 2))
            if parent >= 0 and requests[parent].shared_keys == keys[:num_shared].tolist():
                chain = requests[parent].chain
            else:
                chain = len(requests)
            requests.append(Request(prompt, output, keys[:num_shared].tolist(), chain, parent))
            parent, history = len(requests) - 1, prompt + output
            num_shared = min(6, num_shared + int(rng.integers(5) == 0))
    largest = max(-(-(request.prompt + request.output) // block_size) for request in requests)
    return Case(block_size, [largest + int(rng.integers(0, largest)) for _ in range(2)], requests)


@dataclass
class Engine:
    """Applies the same operations to the fast cache and to the pools, and compares what they say."""

    case: Case
    cache: PrefixCache = field(init=False)
    pools: list[BlockPool] = field(init=False)
    used: list[int] = field(init=False)

    def __post_init__(self) -> None:
        _, num_kv_blocks, requests = self.case
        self.pools = [BlockPool(blocks) for blocks in num_kv_blocks]
        self.used = [0, 0]
        keys = np.array([key for request in requests for key in request.shared_keys], np.int64)
        offsets = np.cumsum([0] + [len(request.shared_keys) for request in requests])
        parent = np.array([request.parent for request in requests], np.int32)
        self.cache = new_prefix_cache(num_kv_blocks, len(requests), len(keys))
        load_contents(self.cache, 0, 0, 0, keys, offsets, parent)

    def contents(self, i: int, tokens: int) -> list[Content]:
        """Of the full blocks that `tokens` tokens of request i fill."""
        request = self.case.requests[i]
        shared: list[Content] = [("shared", key, 0) for key in request.shared_keys]
        private: list[Content] = [
            ("private", request.chain, p) for p in range(tokens // self.case.block_size)
        ]
        return (shared + private[len(shared) :])[: tokens // self.case.block_size]

    def schedule(self, i: int, pick: int) -> None:
        """Admits a waiting request or goes on with a running one, if its blocks are there."""
        request, size = self.case.requests[i], self.case.block_size
        replica = pick % 2 if request.replica == NOWHERE else request.replica
        pool, capacity = self.pools[replica], self.case.num_kv_blocks[replica]
        computed, hits, held = request.computed, [], len(pool.table.get(i, []))
        free_hits = 0
        if request.state == "waiting":
            most = (request.known - 1) // size
            hits = pool.lookup(self.contents(i, request.known), most)
            free_hits = sum(pool.references[block] == 0 for block in hits)
            assert lookup(self.cache, replica, i, most) == (len(hits), free_hits)
            computed, held = len(hits) * size, len(hits)
        chunk = 1 + pick % (request.known - computed)
        blocks = -(-(computed + chunk) // size)
        if blocks - held + free_hits > len(pool.queue):
            return
        if request.state == "waiting":
            pool.admit(i, hits)
            take_hits(self.cache, replica, i, len(hits))
            self.used[replica] += free_hits
        pool.grow(i, blocks)
        pool.publish(i, self.contents(i, computed + chunk))
        self.used[replica] += blocks - held
        evict_to_fit(self.cache, replica, self.used[replica], capacity)
        publish(self.cache, replica, i, (computed + chunk) // size)
        request.state, request.replica, request.computed, request.chunk = "running", replica, computed, chunk

    def complete(self, i: int) -> None:
        request = self.case.requests[i]
        request.computed += request.chunk
        request.chunk = 0
        if request.computed == request.known:
            request.generated += 1
            request.decoding = True
            if request.generated == request.output:
                self.leave(i, finished=True)
                request.state = "finished"

    def move(self, i: int) -> None:
        """Sends a decoding request with its KV to the other replica, if there is room, without a lookup."""
        request, size = self.case.requests[i], self.case.block_size
        target, computed = 1 - request.replica, request.computed
        blocks = -(-computed // size)
        if not request.decoding or blocks > len(self.pools[target].queue):
            return
        self.leave(i, finished=False)
        pool = self.pools[target]
        pool.admit(i, [])
        pool.grow(i, blocks)
        pool.publish(i, self.contents(i, computed))
        self.used[target] += blocks
        evict_to_fit(self.cache, target, self.used[target], self.case.num_kv_blocks[target])
        publish(self.cache, target, i, computed // size)
        request.state, request.replica, request.computed, request.decoding = "running", target, computed, True

    def leave(self, i: int, finished: bool) -> None:
        """Frees the blocks; those that a chunk in flight would fill count as full (vLLM does not undo it)."""
        request, size = self.case.requests[i], self.case.block_size
        pool, before = self.pools[request.replica], len(self.pools[request.replica].queue)
        written = request.computed + request.chunk
        has_partial = len(pool.table[i]) - written // size
        pool.free(i)
        freed = give_back(self.cache, request.replica, i, written // size, has_partial, finished)
        assert freed == len(pool.queue) - before
        self.used[request.replica] -= freed
        request.state, request.computed, request.chunk, request.decoding = "waiting", 0, 0, False

    def fail(self, replica: int) -> None:
        self.pools[replica] = BlockPool(self.case.num_kv_blocks[replica])
        clear_cache(self.cache, replica)
        self.used[replica] = 0
        for i, request in enumerate(self.case.requests):
            if request.state != "finished" and request.replica == replica:
                self.cache.requests[i].num_held = 0
                request.state, request.replica, request.decoding = "waiting", NOWHERE, False
                request.computed, request.chunk, request.generated = 0, 0, 0

    def apply(self, action: str, pick: int) -> None:
        requests = self.case.requests
        if action == "fail":
            self.fail(pick % 2)
            return
        wanted = {"admit": "waiting"}.get(action, "running")
        candidates = [
            i
            for i, request in enumerate(requests)
            if request.state == wanted
            and (request.parent < 0 or requests[request.parent].state == "finished")
            and (action not in ("go on", "move") or request.chunk == 0)
            and (action != "complete" or request.chunk > 0)
        ]
        if not candidates:
            return
        i = candidates[pick % len(candidates)]
        if action == "complete":
            self.complete(i)
        elif action == "preempt":
            self.leave(i, finished=False)
        elif action == "move":
            self.move(i)
        else:
            self.schedule(i, pick // len(candidates))

    def check(self) -> None:
        """Blocks in use, blank ones in front, then the same contents in the same order."""
        for replica, pool in enumerate(self.pools):
            queued = pool.queued_contents()
            fast = free_list(self.cache, replica, self.case.requests)
            cached = int(self.cache.replicas[replica].cached_blocks)
            num_blank = len(queued) - len(fast)
            assert self.used[replica] == self.case.num_kv_blocks[replica] - len(queued)
            assert cached == len(fast)
            assert queued[:num_blank] == [None] * num_blank
            for slow, content in zip(queued[num_blank:], fast, strict=True):
                # a run that nobody can hit any more has no name, only a place
                assert slow is not None and (content == slow or (content is None and slow[0] == "private"))


def free_list(cache: PrefixCache, replica: int, requests: list[Request]) -> list[Content | None]:
    """The contents of the free blocks, from the next one to be evicted to the last."""
    contents: list[Content | None] = []
    head = int(cache.replicas[replica].head)
    node = int(cache.nodes[head].next)
    while node != head:
        key, blocks = int(cache.nodes[node].key), int(cache.nodes[node].blocks)
        if key == NO_KEY:
            contents += [None] * blocks
        elif key >= 0:
            contents += [("shared", key, 0)]
        else:
            chain = -2 - key
            first = len(requests[chain].shared_keys)
            contents += [("private", chain, p) for p in range(first + blocks - 1, first - 1, -1)]
        assert int(cache.nodes[cache.nodes[node].next].previous) == node
        node = int(cache.nodes[node].next)
    return contents


ACTIONS = ["admit"] * 6 + ["go on"] * 6 + ["complete"] * 8 + ["preempt"] * 3 + ["move", "fail"]


@examples(400)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2**16)), min_size=20, max_size=150),
)
def test_like_a_pool_of_blocks(seed: int, actions: list[tuple[str, int]]) -> None:
    """Equal hits, equal counts, equal contents in equal order after any sequence of operations."""
    engine = Engine(random_case(seed))
    for action, pick in actions:
        engine.apply(action, pick)
        engine.check()


def cache_of(keys: list[list[int]], parent: list[int], num_kv_blocks: int) -> PrefixCache:
    """One replica, and requests with these shared keys."""
    offsets = np.cumsum([0] + [len(of_request) for of_request in keys])
    flat = np.array([key for of_request in keys for key in of_request], np.int64)
    cache = new_prefix_cache([0, num_kv_blocks], len(keys), len(flat))  # replica 0 caches nothing
    load_contents(cache, 0, 0, 0, flat, offsets, np.array(parent, np.int32))
    return cache


@given(st.lists(st.integers(0, 23), max_size=100), st.integers(1, 16))
def test_single_blocks_are_an_lru_cache(requests: list[int], num_kv_blocks: int) -> None:
    """One shared block each, freed at once: least recently used goes first. All keys have the same hash."""
    keys = [(high << 31) | (12345 ^ high) for high in range(24)]
    cache = cache_of([[keys[i]] for i in requests], [-1] * len(requests), num_kv_blocks)
    recent: list[int] = []
    for request_id, key in enumerate(requests):
        hits, free_hits = lookup(cache, 1, request_id, 1)
        assert hits == free_hits == (key in recent)
        take_hits(cache, 1, request_id, hits)
        evict_to_fit(cache, 1, 1, num_kv_blocks)
        publish(cache, 1, request_id, 1)
        assert give_back(cache, 1, request_id, 1, 0, True) == 1
        recent = ([other for other in recent if other != key] + [key])[-num_kv_blocks:]
        assert cache.replicas[1].cached_blocks == len(recent)


def test_equal_prompts_prefilled_side_by_side() -> None:
    """Both blocks of a content stay; a third request hits the older, and once that is evicted, the newer."""
    cache = cache_of([[7, 8], [7, 8], [7, 8, 9]], [-1, -1, -1], 5)
    for full_blocks in (1, 2):  # chunk by chunk; both were admitted before any block was full
        publish(cache, 1, 0, full_blocks)
        publish(cache, 1, 1, full_blocks)
    assert lookup(cache, 1, 2, 3) == (2, 0)
    assert give_back(cache, 1, 0, 2, 0, True) == 2  # the older two: block 8, then block 7
    assert lookup(cache, 1, 2, 3) == (2, 2)
    evict_to_fit(cache, 1, 4, 5)
    assert lookup(cache, 1, 2, 3) == (2, 1)  # 7 is the older one still, 8 the newer one, in use
    take_hits(cache, 1, 2, 2)
    assert give_back(cache, 1, 1, 2, 0, True) == 1  # 8 is held by the third request
    assert cache.replicas[1].cached_blocks == 1


def test_follow_up_begins_with_its_parent() -> None:
    """Only the first one, and with the same shared blocks in front. A preempted request finds its own."""
    cache = cache_of([[7], [7], [7], [7, 8]], [-1, 0, 0, 1], 20)
    publish(cache, 1, 0, 4)
    give_back(cache, 1, 0, 4, 1, True)
    assert [lookup(cache, 1, request_id, 9) for request_id in range(1, 4)] == [(4, 4), (1, 1), (1, 1)]
    assert lookup(cache, 1, 1, 3) == (3, 3)
    take_hits(cache, 1, 1, 4)
    give_back(cache, 1, 1, 6, 0, False)
    assert lookup(cache, 1, 1, 9) == (6, 6)
    take_hits(cache, 1, 1, 6)
    give_back(cache, 1, 1, 6, 0, True)  # nobody will ask for its private blocks
    assert lookup(cache, 1, 1, 9) == (1, 1)
    assert cache.replicas[1].cached_blocks == 6
    clear_cache(cache, 1)
    assert lookup(cache, 1, 1, 9) == (0, 0)


def test_the_oldest_of_three_equal_blocks_is_hit() -> None:
    """Once the first is evicted it is the second, in use, and not the third, which is free."""
    cache = cache_of([[7], [7], [7], [7]], [-1] * 4, 3)
    for request_id in range(3):
        publish(cache, 1, request_id, 1)
    give_back(cache, 1, 0, 1, 0, True)
    assert lookup(cache, 1, 3, 1) == (1, 1)
    evict_to_fit(cache, 1, 3, 3)
    give_back(cache, 1, 2, 1, 0, True)
    assert lookup(cache, 1, 3, 1) == (1, 0)


def test_the_youngest_run_is_hit() -> None:
    """A follow-up whose KV came over a link, without a lookup, leaves its session's old run to eviction."""
    cache = cache_of([[], []], [-1, 0], 10)
    give_back(cache, 1, 0, 3, 0, True)
    give_back(cache, 1, 1, 5, 0, False)
    assert lookup(cache, 1, 1, 9) == (5, 5)
    evict_to_fit(cache, 1, 5, 10)
    assert lookup(cache, 1, 1, 9) == (5, 5)
    evict_to_fit(cache, 1, 6, 10)
    assert lookup(cache, 1, 1, 9) == (4, 4)
