"""The state of the prefix caches: nodes for cached content, a table that finds them, contents of requests.

Blank free blocks always stand in front of cached ones, and no two of them differ, so they are only counted.
What is kept are *nodes*: one for each shared block, in use or free, and one for each *run*, the private full
blocks of a request that were freed together. Free nodes form a list, least recently freed first; a run loses
its deepest block first, so what is left of it begins where it began. A table per replica finds the oldest
node of a shared key, and the youngest run of a run key.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit
from servegym.costmodels.native.structs import struct
from servegym.envs.workloads import Workload

NO_KEY = -1
"""The key of a run that nobody can hit any more. Shared keys are at least 0, run keys at most -2."""

NO_NODE = 0
"""Where a node is expected and there is none. Node 0 is the head of replica 0's list and nothing else."""

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
    replicas = np.zeros(len(blocks), CACHE)
    replicas["head"] = np.cumsum(num_nodes) - num_nodes
    replicas["first_slot"] = np.cumsum(num_slots) - num_slots
    replicas["slot_mask"] = num_slots - 1
    replicas["hash_shift"] = 32 - bits
    cache = struct(
        PrefixCache(
            replicas=replicas.view(np.recarray),
            nodes=np.zeros(num_nodes.sum(), NODE).view(np.recarray),
            slots=np.zeros(num_slots.sum(), np.int32),
            requests=np.zeros(num_requests, CONTENTS).view(np.recarray),
            block_keys=np.zeros(num_block_keys, np.int64),
            held_nodes=np.zeros(num_block_keys, np.int32),
        )
    )
    for replica_id in np.flatnonzero(blocks):
        clear_cache(cache, int(replica_id))
    return cache


@jit
def load_contents(
    cache: PrefixCache,
    first: int,
    first_key: int,
    first_number: int,
    block_keys: np.ndarray,
    key_offsets: np.ndarray,
    parent: np.ndarray,
) -> None:
    """Writes the contents of n requests into the slots from `first`, their keys from `first_key` on.

    first_number: the first of n running numbers; none was another request's since the caches were cleared.
    block_keys, key_offsets (n+1,): the keys of the shared blocks of request i are
    `block_keys[key_offsets[i]:key_offsets[i+1]]`. parent (n,): which of these n requests, before i, it
    follows up, or -1. Its private blocks begin with its parent's if both have the same shared blocks in
    front and no earlier follow-up has inherited them.
    """
    cache.block_keys[first_key : first_key + block_keys.size] = block_keys
    for i in range(parent.size):
        contents = cache.requests[first + i]
        start, end = key_offsets[i], key_offsets[i + 1]
        contents.first_key = first_key + start
        contents.num_shared = end - start
        contents.num_held = 0
        contents.followed = 0
        contents.run_key = -2 - (first_number + i)
        if parent[i] >= 0 and cache.requests[first + parent[i]].followed == 0:
            parent_end = key_offsets[parent[i] + 1]
            same_length = parent_end - key_offsets[parent[i]] == end - start
            if same_length and (end == start or block_keys[parent_end - 1] == block_keys[end - 1]):
                contents.run_key = cache.requests[first + parent[i]].run_key
                cache.requests[first + parent[i]].followed = 1


@jit
def clear_cache(cache: PrefixCache, replica_id: int) -> None:
    """Makes the cache of a replica, if it has one, blank. Requests that held blocks need `num_held = 0`."""
    replica = cache.replicas[replica_id]
    if replica.slot_mask < 0:
        return
    head = replica.head
    cache.nodes[head].next = head
    cache.nodes[head].previous = head
    if replica.unused > head + 1:
        cache.slots[replica.first_slot : replica.first_slot + replica.slot_mask + 1] = NO_NODE
    replica.unused = head + 1
    replica.spare = NO_NODE
    replica.cached_blocks = 0


def shared_block_keys(workload: Workload, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the shared KV blocks of all requests, int64, and where each request's begin, int64 (N+1,).

    A block is shared if it is full and lies in the part of the prompt whose contents the workload gives.
    InputError where those contents do not come in whole blocks.
    """
    count = workload.num_requests
    if workload.prefix_ids is None or workload.prefix_offsets is None:
        return np.zeros(0, np.int64), np.zeros(count + 1, np.int64)
    per_id = workload.prefix_block_tokens // block_size
    if per_id * block_size != workload.prefix_block_tokens:
        raise InputError(
            f"workload {workload.name!r}: prefix_block_tokens = {workload.prefix_block_tokens}: must be a "
            f"multiple of engine.block_size = {block_size}"
        )
    given = np.diff(workload.prefix_offsets) * per_id
    counts = np.minimum(given, workload.prompt_tokens // block_size)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)  # position of each block in its request
    which = np.repeat(workload.prefix_offsets[:-1], counts) + within // per_id
    _, dense = np.unique(workload.prefix_ids, return_inverse=True)  # ids may be of any size
    return dense[which].astype(np.int64) * per_id + within % per_id, offsets
