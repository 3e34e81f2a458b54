"""Which models a GPU has in its memory, where that is limited. docs/batch_serving.md, "Memory"."""

import math

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.batch.state import NOBODY, NOW, ClusterState


@routine
def ready_s(state: ClusterState, gpu: int, model: int) -> float:
    """From when a GPU has a model that is about to be used; loads it, and evicts others, where it has not."""
    if state.loaded_s[gpu, model] == math.inf:
        while state.room_bytes[gpu] < state.memory_bytes[model]:
            _evict(state, gpu, _least_recently_used(state, gpu))
        state.room_bytes[gpu] -= state.memory_bytes[model]
        state.loaded_s[gpu, model] = state.clock[NOW] + state.control_s + state.load_s[model]
    state.used_at_s[gpu, model] = state.clock[NOW]
    return state.loaded_s[gpu, model]


@kernel
def has_model(state: ClusterState, gpu: int, model: int) -> bool:
    """Whether a GPU has a model, or is loading it."""
    return not state.has_limited_memory or state.loaded_s[gpu, model] < math.inf


@routine
def _least_recently_used(state: ClusterState, gpu: int) -> int:
    """Of the models of a GPU that have no batch there."""
    oldest = NOBODY
    for model in range(state.num_models):
        used = state.loaded_s[gpu, model] < math.inf
        for i in range(state.held[gpu]):
            used = used and state.batches[state.holds[gpu, i]].model != model
        if used and (oldest == NOBODY or state.used_at_s[gpu, model] < state.used_at_s[gpu, oldest]):
            oldest = model
    return oldest


@kernel
def _evict(state: ClusterState, gpu: int, model: int) -> None:
    state.loaded_s[gpu, model] = math.inf
    state.room_bytes[gpu] += state.memory_bytes[model]
