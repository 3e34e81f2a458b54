"""KV blocks: how many a replica holds, and when decoding runs out of them.

The blocks of prefills are counted (`prefill_blocks` of a replica). Those of decodes are computed: a decode
holds `anchor + iteration` tokens, so with `anchor` split into whole blocks and a rest, the sum of the whole
blocks (`anchor_blocks` of a replica) and the number of decodes whose rest is above a given one
(`Fleet.rests_above`) give the blocks after any number of iterations at once, and skipped iterations need no
bookkeeping. Where every running request reserves a fixed number of blocks, only `prefill_blocks` counts.
"""

import numpy as np

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.state import Fleet

COUNTS_PER_WORD = 4
"""Of `Fleet.rests_above`: a word of 64 bits is four counts of 16."""

_ONES = np.array([0x0, 0x1, 0x1_0001, 0x1_0001_0001, 0x1_0001_0001_0001])
"""A word in which the first so many counts are 1."""


@kernel
def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold `tokens` KV entries."""
    return (tokens + block_size - 1) // block_size


@kernel
def add_decode(fleet: Fleet, replica_id: int, anchor: int, sign: int) -> None:
    """Counts a decode with this anchor in (`sign` 1) or out (-1)."""
    replica = fleet.replicas[replica_id]
    size = fleet.engines[replica.group].block_size
    blocks = anchor // size
    replica.anchor_blocks += sign * blocks
    rest = anchor - blocks * size
    rests_above = fleet.rests_above[replica_id]
    words = (size + COUNTS_PER_WORD - 1) // COUNTS_PER_WORD
    for word in range(words):  # always all of them: short loops of unpredictable length are slower
        rests_above[word] += sign * _ONES[min(max(rest - COUNTS_PER_WORD * word, 0), COUNTS_PER_WORD)]


@kernel
def _num_above(fleet, replica_id, rest):
    """Decodes whose anchor leaves more than `rest` beyond whole blocks."""
    return (fleet.rests_above[replica_id, rest >> 2] >> (16 * (rest & 3))) & 0xFFFF


@kernel
def kv_blocks_at(fleet: Fleet, replica_id: int, iteration: int) -> int:
    """Blocks that the replica holds when its decodes have completed `iteration` iterations."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    if engine.reserved_blocks > 0:
        return replica.prefill_blocks
    size = engine.block_size
    rounds = (iteration - 1) // size
    into_round = iteration - 1 - rounds * size
    crossed = _num_above(fleet, replica_id, size - 1 - into_round)  # into one more block within this round
    total: int = replica.prefill_blocks + replica.anchor_blocks + (rounds + 1) * replica.num_decodes + crossed
    return total


@kernel
def kv_used_blocks(fleet: Fleet, replica_id: int) -> int:
    """Blocks that the replica holds, those taken by the iteration in flight included."""
    replica = fleet.replicas[replica_id]
    return kv_blocks_at(fleet, replica_id, replica.iteration + replica.in_flight * replica.decodes_run)


@kernel
def free_after_decodes(fleet: Fleet, replica_id: int) -> int:
    """Blocks left when every decode has taken what one more iteration needs; negative: too few."""
    replica = fleet.replicas[replica_id]
    total: int = fleet.engines[replica.group].num_kv_blocks
    return total - kv_blocks_at(fleet, replica_id, replica.iteration + 1)


@kernel
def free_now(fleet: Fleet, replica_id: int) -> int:
    """Blocks that nobody uses, between two iterations."""
    replica = fleet.replicas[replica_id]
    total: int = fleet.engines[replica.group].num_kv_blocks
    return total - kv_blocks_at(fleet, replica_id, replica.iteration)


@kernel
def iterations_with_blocks(fleet: Fleet, replica_id: int, limit: int, keep: int) -> int:
    """Decode iterations from now, at most `limit`, that fit into the cache but `keep` of its blocks."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    if engine.reserved_blocks > 0:
        return limit
    size = engine.block_size
    last_rounds = (replica.iteration + limit) // size
    at_most = replica.prefill_blocks + replica.anchor_blocks + (last_rounds + 2) * replica.num_decodes
    if at_most <= engine.num_kv_blocks - keep:
        return limit
    free = free_now(fleet, replica_id) - keep
    if free < 0:
        return 0
    rounds = free // replica.num_decodes
    iterations = rounds * size
    free -= rounds * replica.num_decodes
    rest = (-replica.iteration) % size
    while iterations < limit:
        at_least = _num_above(fleet, replica_id, rest - 1) if rest > 0 else replica.num_decodes
        free -= at_least - _num_above(fleet, replica_id, rest)
        if free < 0:
            break
        iterations += 1
        rest = rest - 1 if rest > 0 else size - 1
    return min(iterations, limit)
