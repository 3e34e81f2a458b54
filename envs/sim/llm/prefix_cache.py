"""The prefix cache of a replica: which KV blocks hold known content, and which of these go first.

Rules: docs/simulator.md, "Prefix cache" (vLLM's block pool). The state is in `prefix_state.py`. A request
costs the number of its shared blocks, and nothing for the number of its private ones.

While private blocks are in use nothing is kept of them here; the engine counts them. It also keeps the
number of all blocks in use, and calls, in this order: at an admission `lookup`, `take_hits`, `evict_to_fit`,
`publish`; when a request takes more blocks `evict_to_fit` and, while it has shared ones to fill, `publish`;
at its end or preemption `give_back`.
"""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.prefix_state import NO_KEY, NO_NODE, PrefixCache


@routine
def lookup(cache: PrefixCache, replica_id: int, request_id: int, most_blocks: int) -> tuple[int, int]:
    """How many blocks of a request, from its first on, are cached (at most `most_blocks`), how many free."""
    contents = cache.requests[request_id]
    free = 0
    for i in range(min(contents.num_shared, most_blocks)):
        node = cache.slots[_slot_of(cache, replica_id, cache.block_keys[contents.first_key + i])]
        if node == NO_NODE:
            return i, free
        if cache.nodes[node].references == 0:
            free += 1
    if most_blocks <= contents.num_shared:
        return most_blocks, free
    run = cache.slots[_slot_of(cache, replica_id, contents.run_key)]
    private = 0
    if run != NO_NODE:
        private = min(cache.nodes[run].blocks, most_blocks - contents.num_shared)
    return contents.num_shared + private, free + private


@routine
def take_hits(cache: PrefixCache, replica_id: int, request_id: int, hits: int) -> None:
    """Gives a request the first `hits` blocks that `lookup` has found; the free ones leave the list.

    What this leaves of the request's run is not hit again: the request computes that content anew, and
    lookups find the new blocks, where vLLM would find the old ones while they last. There is such a rest
    only if a victim was served in the iteration that preempted it, or lost generated tokens to a failure.
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


@routine
def evict_to_fit(cache: PrefixCache, replica_id: int, used_blocks: int, num_kv_blocks: int) -> None:
    """Evicts cached blocks, least recently freed first, until the rest fits beside `used_blocks`."""
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


@routine
def publish(cache: PrefixCache, replica_id: int, request_id: int, full_blocks: int) -> None:
    """Lets others hit the shared blocks among the first `full_blocks` of a request, which it holds."""
    contents = cache.requests[request_id]
    for i in range(contents.num_held, min(contents.num_shared, full_blocks)):
        node = _new_node(cache, replica_id, cache.block_keys[contents.first_key + i], 1)
        cache.nodes[node].references = 1
        cache.held_nodes[contents.first_key + i] = node
        _register(cache, replica_id, node)
        contents.num_held = i + 1


@routine
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
    """The slot where the search for a key begins: multiplicative hash (Knuth, TAOCP 6.4) of 31 bits."""
    folded = (key ^ (key >> 31)) & 0x7FFFFFFF
    return ((folded * 2654435769) & 0xFFFFFFFF) >> replica.hash_shift


@kernel
def _slot_of(cache, replica_id, key):
    """The slot that holds the (oldest) node of a key, or the empty one where it would go."""
    replica = cache.replicas[replica_id]
    slot = _home(replica, key)
    while True:
        node = cache.slots[replica.first_slot + slot]
        if node == NO_NODE or cache.nodes[node].key == key:
            return replica.first_slot + slot
        slot = (slot + 1) & replica.slot_mask


@kernel
def _register(cache, replica_id, node):
    """Enters a node into the table, as the newest of its key."""
    slot = _slot_of(cache, replica_id, cache.nodes[node].key)
    oldest = cache.slots[slot]
    if oldest == NO_NODE:
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
    if cache.slots[slot] != NO_NODE:
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
    """Deletion under linear probing: moves back what a search would miss (Knuth, TAOCP 6.4, Algorithm R)."""
    replica = cache.replicas[replica_id]
    first, mask = replica.first_slot, replica.slot_mask
    hole = slot - first
    probe = hole
    while True:
        probe = (probe + 1) & mask
        node = cache.slots[first + probe]
        if node == NO_NODE:
            break
        if ((probe - _home(replica, cache.nodes[node].key)) & mask) >= ((probe - hole) & mask):
            cache.slots[first + hole] = node
            hole = probe
    cache.slots[first + hole] = NO_NODE


@kernel
def _new_node(cache, replica_id, key, blocks):
    """A node alone in its ring; every node stands for at least one block, so there is always one left."""
    replica = cache.replicas[replica_id]
    node = replica.spare
    if node == NO_NODE:
        node = replica.unused
        replica.unused += 1
    else:
        replica.spare = cache.nodes[node].next
    cache.nodes[node].key = key
    cache.nodes[node].blocks = blocks
    cache.nodes[node].references = 0  # a cache that was cleared has forgotten holders of its nodes
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
