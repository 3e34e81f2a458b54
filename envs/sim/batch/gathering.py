"""Which batch of a queue to aim for: Symphony's incremental gathering, and the rate that sets its target.

A scheduler that gathers keeps GATHERING_COLUMNS numbers of each model at the front of `state.model_memory`.
docs/batch_serving.md, "Staggered batches" and "Symphony".
"""

import math

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.batch.actions import drop
from servegym.envs.sim.batch.queues import deadline_of, end_if_sent, lead_s, num_waiting
from servegym.envs.sim.batch.staggered import (
    RATE_BUCKET_S,
    RATE_BUCKETS,
    first_target_batch,
    target_batch,
)
from servegym.envs.sim.batch.state import NOW, ClusterState

(
    PREFIX,  # requests at the front of the queue too old for a batch of all behind them
    RATE_RPS,  # measured; 0 before there is one
    TARGET,  # largest batch to aim at
    MEASURED,  # 1 + bucket in which both were computed; 0: never
    NEWEST,  # the latest bucket counted
    COUNTS,  # from here on arrivals by bucket, in a ring
) = range(6)

_RING = RATE_BUCKETS + 1  # the complete ones and the present one
GATHERING_COLUMNS = COUNTS + _RING

FAR_S = 1e300
"""A finite time later than all others: trees of keys have inf for nobody."""

_EXPIRED_S = 1e-6
"""How long after its window a candidate is gathered anew, so that rounding does not find it open."""


@kernel
def count_arrival(state: ClusterState, model: int) -> None:
    """To be called at every arrival, before anything asks for the target."""
    memory = state.model_memory[model]
    bucket = _turn_to_present(state, model)
    memory[COUNTS + bucket % _RING] += 1


@routine
def measure(state: ClusterState, model: int) -> None:
    """Brings RATE_RPS and TARGET up to date: once in a bucket, of complete buckets only."""
    memory = state.model_memory[model]
    bucket = _turn_to_present(state, model)
    if memory[MEASURED] == 1 + bucket:
        return
    memory[MEASURED] = 1 + bucket
    if bucket == 0:
        memory[TARGET] = first_target_batch(state, model)
        return
    complete = min(bucket, RATE_BUCKETS)
    count = 0.0
    for i in range(bucket - complete, bucket):
        count += memory[COUNTS + i % _RING]
    memory[RATE_RPS] = count / (complete * RATE_BUCKET_S)
    memory[TARGET] = target_batch(state, model, memory[RATE_RPS])


@kernel
def _turn_to_present(state: ClusterState, model: int) -> int:
    """Empties the buckets since the newest one; the present bucket."""
    memory = state.model_memory[model]
    bucket = int(state.clock[NOW] / RATE_BUCKET_S)
    newest = int(memory[NEWEST])
    for i in range(max(newest + 1, bucket - RATE_BUCKETS), bucket + 1):
        memory[COUNTS + i % _RING] = 0
    memory[NEWEST] = bucket
    return bucket


@routine
def gather(state: ClusterState, model: int, free_at_s: float, target: int) -> int:
    """The size of the batch for a GPU that is free from `free_at_s` on (-inf: now); 0 for none.

    Drops requests in whose favour a batch of the target size would have to be smaller.
    """
    memory = state.model_memory[model]
    hopeless, prefix, size = gathered(state, model, 0, int(memory[PREFIX]), free_at_s, target)
    drop(state, model, hopeless)
    memory[PREFIX] = prefix
    return size


@routine
def gathered(
    state: ClusterState, model: int, first: int, prefix: int, free_at_s: float, target: int
) -> tuple[int, int, int]:
    """What `gather` would do with a queue that began at place `first`: dropped, prefix then, batch size."""
    waiting = num_waiting(state, model) - first
    largest = state.max_batch[model]
    while prefix < waiting:
        size = min(waiting - prefix, largest)
        if not end_if_sent(state, model, size, free_at_s) > deadline_of(state, model, first + prefix):
            break
        prefix += 1
    size = min(target, waiting - prefix, largest)
    if size == 0:
        if free_at_s <= state.clock[NOW] + lead_s(state, 1):
            return waiting, 0, 0
        return 0, prefix, 0
    end_s = end_if_sent(state, model, size, free_at_s)
    hopeless = 0
    while hopeless < prefix and deadline_of(state, model, first + hopeless) < end_s:
        hopeless += 1
    waiting -= hopeless
    deadline_s = deadline_of(state, model, first + hopeless)
    while size < min(waiting, largest) and end_if_sent(state, model, size + 1, free_at_s) <= deadline_s:
        size += 1
    return hopeless, prefix - hopeless, size


@kernel
def took(state: ClusterState, model: int, count: int) -> None:
    """To be called when `count` requests have left the front of a queue otherwise than by `gather`."""
    memory = state.model_memory[model]
    memory[PREFIX] = max(0.0, memory[PREFIX] - count)


@kernel
def front_s(state: ClusterState, model: int, first: int, size: int, margin_s: float) -> float:
    """The start after which a batch larger by one would be late; -inf where none is larger.

    Of a batch of `size` whose oldest request is at place `first` of the queue; so in `latest_s` and
    `expires_s`.
    """
    if size >= state.max_batch[model]:
        return -math.inf
    larger_s = state.latency_s[model, size + 1]
    return deadline_of(state, model, first) - margin_s - larger_s - state.data_s


@kernel
def latest_s(state: ClusterState, model: int, first: int, size: int, margin_s: float) -> float:
    """The last start in time, but for the margin."""
    return deadline_of(state, model, first) - margin_s - state.latency_s[model, size]


@kernel
def expires_s(state: ClusterState, model: int, first: int, size: int) -> float:
    """The last start in time, FAR_S without an objective."""
    return min(deadline_of(state, model, first) - state.latency_s[model, size], FAR_S)


@kernel
def gone_s(state: ClusterState, size: int, expires_s: float) -> float:
    """When a batch can be sent in time no more."""
    return expires_s - lead_s(state, size) + _EXPIRED_S
