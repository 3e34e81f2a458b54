"""Llumnix's freeness: what each request of a replica could still grow by, in KV blocks.

Sun et al., "Llumnix: Dynamic Scheduling for Large Language Model Serving", OSDI 2024, section 4.4; read in
the authors' code (load_computation.py; for urgent requests branch osdi24ae, vllm/instance_info.py).

    freeness = (free KV blocks - watermark - blocks of those waiting - headroom) / requests

infinite where there are no requests. The blocks of those waiting are the paper's virtual usage. With `defrag`
only the first of them is counted, among the blocks and among the requests: migration makes room for the one
that is next to be admitted. Headroom, where any request is urgent, is what would be left of the replica with
`urgent_load_tokens` in use, so that normal requests stay or go away.
"""

import numpy as np

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.router import Array
from servegym.envs.sim.llm.view import (
    FIRST_WAITING_TOKENS,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    QUEUED_PREFILL_TOKENS,
    RUNNING,
    URGENT,
    WAITING,
)

DEFRAG, WATERMARK, BLOCK_SIZE, URGENT_LOAD_TOKENS = range(4)
"""What freeness depends on beside the row: the first parameters of those who use it."""


@kernel
def requests_charged(row: Array, parameters: Array) -> float:
    """Requests of a replica among which its free blocks are shared."""
    waiting = row[WAITING]
    if parameters[DEFRAG] > 0:
        waiting = min(waiting, 1.0)
    return float(row[RUNNING] + waiting)


@kernel
def blocks_left(row: Array, parameters: Array) -> float:
    """Free KV blocks of a replica, less those that are spoken for; may be negative."""
    total, block_size = row[KV_TOTAL_BLOCKS], parameters[BLOCK_SIZE]
    queued = row[FIRST_WAITING_TOKENS] if parameters[DEFRAG] > 0 else row[QUEUED_PREFILL_TOKENS]
    blocks = total - row[KV_USED_BLOCKS] - np.floor(parameters[WATERMARK] * total)
    blocks -= np.ceil(queued / block_size)
    if row[URGENT] > 0:
        blocks -= max(0.0, total - parameters[URGENT_LOAD_TOKENS] / block_size)
    return float(blocks)


@kernel
def freeness(row: Array, parameters: Array) -> float:
    """KV blocks a request, of a replica's row."""
    requests = requests_charged(row, parameters)
    if requests == 0:
        return np.inf
    return blocks_left(row, parameters) / requests
