"""The prefix cache of each replica: which KV blocks hold known content, and which of these go first.

Rules: docs/simulator.md, "Prefix cache" (vLLM's block pool). Blank free blocks always stand in front of
cached ones, and no two of them differ, so they are only counted. What is kept are *nodes*: one for each
shared block, in use or free, and one for each *run*, the private full blocks of a request that were freed
together. Free nodes form a list, least recently freed first; a run loses its deepest block first, so what is
left of it begins where it began. A table per replica finds the oldest node of a shared key, and the youngest
run of a run key. So a request costs the number of its shared blocks and not that of its private ones.

While private blocks are in use nothing is kept of them here; the engine counts them. It also keeps the number
of blocks in use, and calls, in this order: `lookup`, `take_hits`, `evict_to_fit`, `publish` at admission;
`evict_to_fit`, `publish` when a request goes on; `give_back` at its end or preemption.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.costmodels.jit import jit, kernel

NO_KEY = -1
"""The key of a run that nobody can hit any more. Shared keys are at least 0, run keys at most -2."""

_NO_NODE = 0  # node 0 is the head of replica 0's list, and so never in a table or among the spare ones

CACHE = np.dtype(
    [
        ("cached_blocks", np.int64),  # free blocks with content
        ("head", np.int64),  # node in front of the oldest and behind the newest free node
        ("unused", np.int64),  # nodes from here on have never been used
        ("spare", np.int64),  # the first of the used and released nodes
        ("first_slot", np.int64),  # of this replica's table
        ("slot_mask", np.int64),  # number of its slots (a power of 2) minus 1
        ("hash_shift", np.int64),  # 32 minus the bits of a slot's number
    ],
    align=True,
)
"""The cache of one replica."""

NODE = np.dtype(
    [
        ("key", np.int64),
        ("next", np.int32),  # in the list of free nodes, or of spare ones
        ("previous", np.int32),
        ("newer", np.int32),  # nodes of equal key form a ring, in order of registration
        ("older", np.int32),
        ("blocks", np.int32),  # length of a run; 1 for a shared block
        ("references", np.int32),  # requests that hold this shared block
    ],
    align=True,
)
"""A shared block, or a run of free private blocks."""

CONTENTS = np.dtype(
    [
        ("first_key", np.int64),  # of this request in `block_keys` and `held_nodes`
        ("run_key", np.int64),
        ("num_shared", np.int32),  # full KV blocks with a shared key
        ("num_held", np.int32),  # shared blocks it holds now, from the first one on
        ("followed", np.int32),  # 1 if a later request has the same run key
    ],
    align=True,
)
"""What a request's blocks contain."""


class PrefixCache(NamedTuple):
    """The prefix caches of S replicas, and the contents of N requests.

    replicas: CACHE (S,); nodes: NODE, for each replica one more than it has blocks; slots: int32, the tables,
    node numbers (0: empty) by open addressing. requests: CONTENTS (N,). block_keys: int64, keys of the shared
    blocks of request 0, then of 1, ...; equal keys mean equal content and equal content before it.
    held_nodes: int32, the same shape: the node that a request holds for each of its first `num_held` blocks.
    """

    replicas: np.ndarray
    nodes: np.ndarray
    slots: np.ndarray
    requests: np.ndarray
    block_keys: np.ndarray
    held_nodes: np.ndarray


def new_prefix_cache(num_kv_blocks: npt.ArrayLike, num_requests: int, num_block_keys: int) -> PrefixCache:
    """Empty caches for replicas with `num_kv_blocks` (S,) KV blocks, 0 where there is no prefix caching.

    Has room for the contents of `num_requests` requests with `num_block_keys` shared blocks in all.
    """
    blocks = np.asarray(num_kv_blocks, np.int64)
    bits = np.array([int(2 * size - 1).bit_length() if size > 0 else 0 for size in blocks], np.int64)
    num_slots = np.where(blocks > 0, 1 << bits, 0)
    num_nodes = np.where(blocks > 0, blocks + 1, 0)
    replicas = np.zeros(len(blocks), CACHE).view(np.recarray)
    replicas.head = np.cumsum(num_nodes) - num_nodes
    replicas.first_slot = np.cumsum(num_slots) - num_slots
    replicas.slot_mask = num_slots - 1
    replicas.hash_shift = 32 - bits
    cache = PrefixCache(
        replicas=replicas,
        nodes=np.zeros(num_nodes.sum(), NODE).view(np.recarray),
        slots=np.zeros(num_slots.sum(), np.int32),
        requests=np.zeros(num_requests, CONTENTS).view(np.recarray),
        block_keys=np.zeros(num_block_keys, np.int64),
        held_nodes=np.zeros(num_block_keys, np.int32),
    )
    for replica_id in np.flatnonzero(blocks):
        clear_cache(cache, int(replica_id))
    return cache


@jit
def load_contents(
    cache: PrefixCache,
    first: int,
    first_key: int,
    block_keys: np.ndarray,
    key_offsets: np.ndarray,
    parent: np.ndarray,
) -> None:
    """Writes the contents of n requests into the slots from `first`, their keys from `first_key` on.

    block_keys, key_offsets (n+1,): keys of the shared blocks of request i are
    `block_keys[key_offsets[i]:key_offsets[i+1]]`. parent (n,): the earlier request that i follows up, or -1;
    its private blocks are the beginning of i's own if both have the same shared blocks in front and no other
    follow-up of it comes before i.
    """
    cache.block_keys[first_key : first_key + block_keys.size] = block_keys
    for i in range(parent.size):
        contents = cache.requests[first + i]
        start, end = key_offsets[i], key_offsets[i + 1]
        contents.first_key = first_key + start
        contents.num_shared = end - start
        contents.num_held = 0
        contents.followed = 0
        contents.run_key = -2 - (first + i)
        if parent[i] >= 0 and cache.requests[first + parent[i]].followed == 0:
            parent_end = key_offsets[parent[i] + 1]
            same_length = parent_end - key_offsets[parent[i]] == end - start
            if same_length and (end == start or block_keys[parent_end - 1] == block_keys[end - 1]):
                contents.run_key = cache.requests[first + parent[i]].run_key
                cache.requests[first + parent[i]].followed = 1


@jit
def clear_cache(cache: PrefixCache, replica_id: int) -> None:
    """Makes the cache of a replica blank. Whoever held blocks there has to be given `num_held = 0`."""
    replica = cache.replicas[replica_id]
    head = replica.head
    cache.nodes[head].next = head
    cache.nodes[head].previous = head
    if replica.unused > head + 1:
        cache.slots[replica.first_slot : replica.first_slot + replica.slot_mask + 1] = _NO_NODE
    replica.unused = head + 1
    replica.spare = _NO_NODE
    replica.cached_blocks = 0


@kernel
def lookup(cache: PrefixCache, replica_id: int, request_id: int, most_blocks: int) -> tuple[int, int]:
    """Blocks of a request that are cached, from the first on, at most `most_blocks`; and how many are free."""
    contents = cache.requests[request_id]
    free = 0
    for i in range(min(contents.num_shared, most_blocks)):
        node = cache.slots[_slot_of(cache, replica_id, cache.block_keys[contents.first_key + i])]
        if node == _NO_NODE:
            return i, free
        if cache.nodes[node].references == 0:
            free += 1
    if most_blocks <= contents.num_shared:
        return most_blocks, free
    run = cache.slots[_slot_of(cache, replica_id, contents.run_key)]
    private = 0
    if run != _NO_NODE:
        private = min(cache.nodes[run].blocks, most_blocks - contents.num_shared)
    return contents.num_shared + private, free + private


@kernel
def take_hits(cache: PrefixCache, replica_id: int, request_id: int, hits: int) -> None:
    """Gives a request the first `hits` blocks that `lookup` has found; the free ones leave the list.

    What this leaves of the request's run is not hit again: its content is computed anew.
    """
    replica = cache.replicas[replica_id]
    contents = cache.requests[request_id]
    shared = min(contents.num_shared, hits)
    for i in range(shared):
        node = cache.slots[_slot_of(cache, replica_id, cache.block_keys[contents.first_key + i])]
        if cache.nodes[node].references == 0:
            _unlink(cache, node)
            replica.cached_blocks -= 1
        cache.nodes[node].references += 1
        cache.held_nodes[contents.first_key + i] = node
    contents.num_held = shared
    if hits > shared:
        run = cache.slots[_slot_of(cache, replica_id, contents.run_key)]
        _unregister(cache, replica_id, run)
        cache.nodes[run].blocks -= hits - shared
        replica.cached_blocks -= hits - shared
        if cache.nodes[run].blocks == 0:
            _unlink(cache, run)
            _release(cache, replica_id, run)


@kernel
def evict_to_fit(cache: PrefixCache, replica_id: int, used_blocks: int, num_kv_blocks: int) -> None:
    """Evicts cached blocks, least recently freed first, until `used_blocks` in use leave room for the rest."""
    replica = cache.replicas[replica_id]
    missing = used_blocks + replica.cached_blocks - num_kv_blocks
    while missing > 0:
        oldest = cache.nodes[replica.head].next
        evicted = min(missing, cache.nodes[oldest].blocks)
        missing -= evicted
        replica.cached_blocks -= evicted
        cache.nodes[oldest].blocks -= evicted
        if cache.nodes[oldest].blocks == 0:
            if cache.nodes[oldest].key != NO_KEY:
                _unregister(cache, replica_id, oldest)
            _unlink(cache, oldest)
            _release(cache, replica_id, oldest)


@kernel
def publish(cache: PrefixCache, replica_id: int, request_id: int, full_blocks: int) -> None:
    """Lets others hit the shared blocks among the first `full_blocks` of a request, which it holds."""
    contents = cache.requests[request_id]
    for i in range(contents.num_held, min(contents.num_shared, full_blocks)):
        node = _new_node(cache, replica_id, cache.block_keys[contents.first_key + i], 1)
        cache.nodes[node].references = 1
        cache.held_nodes[contents.first_key + i] = node
        _register(cache, replica_id, node)
        contents.num_held = i + 1


@kernel
def give_back(
    cache: PrefixCache, replica_id: int, request_id: int, full_blocks: int, has_partial: int, finished: bool
) -> int:
    """Frees all blocks of a request: full ones, published before, and 1 or 0 partial ones.

    Returns how many are not in use any more; others may still hold shared ones.
    """
    replica = cache.replicas[replica_id]
    contents = cache.requests[request_id]
    private = full_blocks - contents.num_held
    cached = private
    if private > 0:
        if finished and contents.followed == 0:
            run = _new_node(cache, replica_id, NO_KEY, private)
        else:
            run = _new_node(cache, replica_id, contents.run_key, private)
            _replace_run(cache, replica_id, run)
        _append(cache, replica_id, run)
    for i in range(contents.num_held - 1, -1, -1):
        node = cache.held_nodes[contents.first_key + i]
        cache.nodes[node].references -= 1
        if cache.nodes[node].references == 0:
            _append(cache, replica_id, node)
            cached += 1
    contents.num_held = 0
    replica.cached_blocks += cached
    return cached + has_partial


@kernel
def _home(replica, key):
    """The slot of the table where the search for a key begins: Knuth's multiplicative hash of 31 bits."""
    folded = (key ^ (key >> 31)) & 0x7FFFFFFF
    return ((folded * 2654435769) & 0xFFFFFFFF) >> replica.hash_shift


@kernel
def _slot_of(cache, replica_id, key):
    """The slot that holds the (oldest) node of a key, or the empty one where it would go."""
    replica = cache.replicas[replica_id]
    slot = _home(replica, key)
    while True:
        node = cache.slots[replica.first_slot + slot]
        if node == _NO_NODE or cache.nodes[node].key == key:
            return replica.first_slot + slot
        slot = (slot + 1) & replica.slot_mask


@kernel
def _register(cache, replica_id, node):
    """Enters a node into the table, as the newest of its key."""
    slot = _slot_of(cache, replica_id, cache.nodes[node].key)
    oldest = cache.slots[slot]
    if oldest == _NO_NODE:
        cache.slots[slot] = node
        return
    newest = cache.nodes[oldest].older
    cache.nodes[node].older = newest
    cache.nodes[node].newer = oldest
    cache.nodes[newest].newer = node
    cache.nodes[oldest].older = node


@kernel
def _replace_run(cache, replica_id, run):
    """Enters a run into the table in place of any older one of its key."""
    slot = _slot_of(cache, replica_id, cache.nodes[run].key)
    if cache.slots[slot] != _NO_NODE:
        cache.nodes[cache.slots[slot]].key = NO_KEY
    cache.slots[slot] = run


@kernel
def _unregister(cache, replica_id, node):
    """Takes a node out of the table; the next newer one of its key, if any, stands for the key then."""
    slot = _slot_of(cache, replica_id, cache.nodes[node].key)
    newer, older = cache.nodes[node].newer, cache.nodes[node].older
    cache.nodes[node].key = NO_KEY
    if newer == node:
        _empty_slot(cache, replica_id, slot)
        return
    cache.nodes[older].newer = newer
    cache.nodes[newer].older = older
    if cache.slots[slot] == node:
        cache.slots[slot] = newer


@kernel
def _empty_slot(cache, replica_id, slot):
    """Deletion under linear probing: moves back what a search would no longer reach (Knuth 6.4, Algorithm R)."""
    replica = cache.replicas[replica_id]
    first, mask = replica.first_slot, replica.slot_mask
    hole = slot - first
    probe = hole
    while True:
        probe = (probe + 1) & mask
        node = cache.slots[first + probe]
        if node == _NO_NODE:
            break
        if ((probe - _home(replica, cache.nodes[node].key)) & mask) >= ((probe - hole) & mask):
            cache.slots[first + hole] = node
            hole = probe
    cache.slots[first + hole] = _NO_NODE


@kernel
def _new_node(cache, replica_id, key, blocks):
    """A node alone in its ring; every node stands for at least one block, so there is always one left."""
    replica = cache.replicas[replica_id]
    node = replica.spare
    if node == _NO_NODE:
        node = replica.unused
        replica.unused += 1
    else:
        replica.spare = cache.nodes[node].next
    cache.nodes[node].key = key
    cache.nodes[node].blocks = blocks
    cache.nodes[node].newer = node
    cache.nodes[node].older = node
    return node


@kernel
def _release(cache, replica_id, node):
    replica = cache.replicas[replica_id]
    cache.nodes[node].next = replica.spare
    replica.spare = node


@kernel
def _append(cache, replica_id, node):
    """Puts a node at the back of the list of free ones."""
    head = cache.replicas[replica_id].head
    last = cache.nodes[head].previous
    cache.nodes[node].next = head
    cache.nodes[node].previous = last
    cache.nodes[last].next = node
    cache.nodes[head].previous = node


@kernel
def _unlink(cache, node):
    """Takes a node out of the list of free ones, wherever it stands."""
    following, previous = cache.nodes[node].next, cache.nodes[node].previous
    cache.nodes[previous].next = following
    cache.nodes[following].previous = previous
