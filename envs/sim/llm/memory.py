"""KV blocks: how many a request holds, and when decoding runs out of them.

A decode that has `computed` tokens takes a new block in an iteration exactly when `computed` is a multiple
of the block size. As `computed = anchor + iteration`, a histogram of `anchor` modulo the block size
(`Fleet.block_phase`) says how many decodes take one in any iteration.
"""

from servegym.costmodels.jit import kernel
from servegym.envs.sim.llm.state import Fleet


@kernel
def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold `tokens` KV entries."""
    return (tokens + block_size - 1) // block_size


@kernel
def decode_blocks(fleet: Fleet, replica_id: int, iterations: int) -> int:
    """Blocks that the decodes of a replica take in the next `iterations` iterations."""
    replica = fleet.replicas[replica_id]
    size = fleet.block_size
    phases = fleet.block_phase[replica_id]
    rounds = iterations // size
    total = rounds * replica.num_decodes
    phase = (-replica.iteration) % size
    for _ in range(iterations - rounds * size):
        total += phases[phase]
        phase = phase - 1 if phase > 0 else size - 1
    return total


@kernel
def iterations_with_blocks(fleet: Fleet, replica_id: int, limit: int) -> int:
    """How many decode iterations, at most `limit`, the free blocks allow."""
    replica = fleet.replicas[replica_id]
    size = fleet.block_size
    free = fleet.num_kv_blocks - replica.kv_used_blocks
    if (limit // size + 1) * replica.num_decodes <= free:
        return limit
    phases = fleet.block_phase[replica_id]
    rounds = free // replica.num_decodes
    iterations = rounds * size
    free -= rounds * replica.num_decodes
    phase = (-replica.iteration) % size
    while iterations < limit and phases[phase] <= free:
        free -= phases[phase]
        iterations += 1
        phase = phase - 1 if phase > 0 else size - 1
    return min(iterations, limit)
