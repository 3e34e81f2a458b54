"""The reward of deferred batching: minus the increase of what an episode costs.

An episode's cost is, with the weights of the scenario's objective,

    bad requests + gpu_weight * seconds of GPUs in use + energy_weight * joules of batches

A request is bad once that is certain: when it is dropped; when the batch it is in is dispatched and will end
too late; at the end of the episode where it was never served. Joules count when their batch is dispatched,
seconds of GPUs as they pass (all the time without an autoscaler). The undiscounted return is minus the cost:
with both weights 0 it is minus `bad_share * num_requests`.

>>> before = cost_of(num_bad=2, gpu_s=0.5, energy_j=4.0, gpu_weight=1.0, energy_weight=0.25)
>>> # a batch of 2 J is sent, one request of which will be late; then 2 GPUs are in use for 1/4 s
>>> before - cost_of(num_bad=3, gpu_s=1.0, energy_j=6.0, gpu_weight=1.0, energy_weight=0.25)
-2.0
"""

import numpy as np

from servegym.costmodels.native.jit import kernel
from servegym.envs.deferred_batching.asking import LATE
from servegym.envs.sim.batch.state import (
    ENERGY,
    NOW,
    NUM_DROPPED,
    NUM_ENDED,
    NUM_REQUESTS,
    ClusterState,
)


@kernel
def cost_of(num_bad: float, gpu_s: float, energy_j: float, gpu_weight: float, energy_weight: float) -> float:
    """The cost of an episode in bad requests."""
    return num_bad + gpu_weight * gpu_s + energy_weight * energy_j


@kernel
def cost_so_far(state: ClusterState, is_over: bool, gpu_weight: float, energy_weight: float) -> float:
    """Of an episode up to now."""
    num_bad = state.counters[NUM_DROPPED] + state.memory[LATE]
    if is_over:
        num_bad += state.counters[NUM_REQUESTS] - state.counters[NUM_ENDED]
    gpu_s = 0.0
    if gpu_weight > 0:
        for gpu in range(state.num_gpus):
            gpu_s += state.used_s[gpu]
            if not np.isnan(state.used_from_s[gpu]):
                gpu_s += state.clock[NOW] - state.used_from_s[gpu]
    return cost_of(num_bad, gpu_s, state.clock[ENERGY], gpu_weight, energy_weight)
