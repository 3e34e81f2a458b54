"""What an agent observes while it is asked about a model: a graph of models and GPUs, in fixed-size arrays.

Raw units, as networks normalise inside. Only what a real scheduler knows: nothing of requests to come.

    candidate  float32 (CANDIDATE_FEATURES,)    the model asked about and its two batches
    models     float32 (M, MODEL_FEATURES)      a row per model
    gpus       float32 (G, GPU_FEATURES)        a row per GPU; an action leads from the model to an idle one
    weights    float32 (G, M)                   where GPUs have limited memory only: 1 where a GPU has the
                                                weights of a model, or is loading them

`*_COLUMNS` name the columns with their units. Legal are: to wait where `may_wait` is 1, both batches on every
GPU with `idle` = 1. Times that are infinite (no objective) are MOST_S. When an episode is over all is 0.

Flat, this is one Box: the arrays in this order, each row by row.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.deferred_batching.asking import (
    EXPIRES_S,
    FRONT_S,
    LATEST_S,
    SIZE,
    batch_of,
    wakes_at_s,
)
from servegym.envs.flat import flat_space
from servegym.envs.sim.batch.gathering import FAR_S, RATE_RPS, TARGET, measure
from servegym.envs.sim.batch.memory import has_model
from servegym.envs.sim.batch.queues import arrival_of, deadline_of, is_idle, lead_s, num_waiting
from servegym.envs.sim.batch.state import (
    ACTIVE,
    NEXT_ARRIVAL,
    NOW,
    NUM_REQUESTS,
    STARTING,
    ClusterState,
)

Observation = dict[str, np.ndarray]

MOST_S = 1e6
"""The most that a time is."""

CANDIDATE_COLUMNS = (
    ("size", "requests"),  # the batch of the target size, `b*`
    ("end_s", "s"),  # from now, if it is sent now to a GPU with the weights; likewise below
    ("left_behind", "requests"),  # of the front of the queue, dropped with it
    ("smaller_size", "requests"),  # the batch that keeps more, of the target `3 b* / 4`
    ("smaller_end_s", "s"),
    ("smaller_left_behind", "requests"),
    ("until_front_s", "s"),  # send then, and a batch larger by one would be late; below 0: since; 0: full
    ("until_latest_s", "s"),  # send then, and it ends a margin before its deadline
    ("until_expires_s", "s"),  # send later, and it is late
    ("waiting", "requests"),
    ("oldest_wait_s", "s"),
    ("target", "requests"),  # `b*` for the measured rate
    ("rate_rps", "requests/s"),  # measured; 0: not yet
    ("slo_s", "s"),
    ("may_wait", "0 or 1"),
)
"""Name and unit of each number of the model asked about, in order."""

MODEL_COLUMNS = (
    ("asked", "0 or 1"),
    ("waiting", "requests"),
    ("oldest_slack_s", "s"),  # until the deadline of the oldest; 0 where nobody waits
    ("target", "requests"),
    ("rate_rps", "requests/s"),
    ("single_s", "s"),  # `l(1)`
    ("target_s", "s"),  # `l(b*)`
    ("slo_s", "s"),
    ("size", "requests"),  # of its candidate; 0 without
    ("until_expires_s", "s"),  # as of the candidate; 0 without
)
"""Name and unit of each number of a model, in order."""

GPU_COLUMNS = (
    ("active", "0 or 1"),
    ("idle", "0 or 1"),
    ("idle_s", "s"),  # since when
    ("until_free_s", "s"),  # of its batch, or until it has started
    ("size", "requests"),  # of the batch it runs
    ("has_weights", "0 or 1"),  # of the model asked about; 1 where memory is not limited
    ("load_s", "s"),  # to load them
)
"""Name and unit of each number of a GPU, in order."""

CANDIDATE_FEATURES, MODEL_FEATURES, GPU_FEATURES = (
    len(CANDIDATE_COLUMNS),
    len(MODEL_COLUMNS),
    len(GPU_COLUMNS),
)

UNTIL_FRONT_S, MAY_WAIT = 6, 14
IDLE, IDLE_S, HAS_WEIGHTS = 1, 2, 5

_SIGNED = (6, 7, 8), (2, 9)
"""Columns of candidates and models that may be below 0."""


def observation_space(num_models: int, num_gpus: int, has_limited_memory: bool, flat: bool) -> gym.Space[Any]:
    """The space of one episode's observation."""
    least = np.zeros(CANDIDATE_FEATURES, np.float32)
    least[list(_SIGNED[0])] = -np.inf
    least_of_models = np.zeros((num_models, MODEL_FEATURES), np.float32)
    least_of_models[:, list(_SIGNED[1])] = -np.inf
    spaces: dict[str, gym.Space[Any]] = {
        "candidate": gym.spaces.Box(least, np.inf, dtype=np.float32),
        "models": gym.spaces.Box(least_of_models, np.inf, dtype=np.float32),
        "gpus": gym.spaces.Box(0.0, np.inf, (num_gpus, GPU_FEATURES), np.float32),
    }
    if has_limited_memory:
        spaces["weights"] = gym.spaces.Box(0.0, 1.0, (num_gpus, num_models), np.float32)
    space = gym.spaces.Dict(spaces)
    return flat_space(space, tuple(spaces)) if flat else space


def legal_actions(observation: Observation) -> np.ndarray:
    """bool (..., 1 + 2 G), from what is observed: True where an action is legal."""
    may_wait = observation["candidate"][..., MAY_WAIT : MAY_WAIT + 1] > 0
    idle = observation["gpus"][..., IDLE] > 0
    legal: np.ndarray = np.concatenate([may_wait, idle, idle], axis=-1)
    return legal


@routine
def observe(
    state: ClusterState,
    model: int,
    candidate: np.ndarray,
    models: np.ndarray,
    gpus: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Writes what is seen while the agent is asked about a model."""
    for each in range(state.num_models):
        _write_model(state, each, each == model, models[each])
    for gpu in range(state.num_gpus):
        _write_gpu(state, gpu, model, gpus[gpu])
    _write_candidate(state, model, candidate)
    if state.has_limited_memory:
        for gpu in range(state.num_gpus):
            for each in range(state.num_models):
                weights[gpu, each] = has_model(state, gpu, each)


@kernel
def _write_candidate(state: ClusterState, model: int, row: np.ndarray) -> None:
    memory = state.model_memory[model]
    at = 0
    for keeps_more in (False, True):
        behind, _, size = batch_of(state, model, keeps_more)
        row[at] = size
        row[at + 1] = lead_s(state, size) + state.latency_s[model, size]
        row[at + 2] = behind
        at += 3
    send_s = state.clock[NOW] + lead_s(state, int(memory[SIZE]))
    row[at] = _within(memory[FRONT_S] - send_s) if memory[FRONT_S] > -math.inf else 0.0
    row[at + 1] = _within(memory[LATEST_S] - send_s)
    row[at + 2] = _within(memory[EXPIRES_S] - send_s)
    row[at + 3] = num_waiting(state, model)
    row[at + 4] = state.clock[NOW] - arrival_of(state, model, 0)
    row[at + 5] = memory[TARGET]
    row[at + 6] = memory[RATE_RPS]
    row[at + 7] = _within(state.slo_s[model])
    row[at + 8] = may_wait(state, model)


@kernel
def _write_model(state: ClusterState, model: int, asked: bool, row: np.ndarray) -> None:
    measure(state, model)
    memory = state.model_memory[model]
    size = int(memory[SIZE])
    waiting = num_waiting(state, model)
    row[0] = asked
    row[1] = waiting
    row[2] = _within(deadline_of(state, model, 0) - state.clock[NOW]) if waiting > 0 else 0.0
    row[3] = memory[TARGET]
    row[4] = memory[RATE_RPS]
    row[5] = state.latency_s[model, 1]
    row[6] = state.latency_s[model, int(memory[TARGET])]
    row[7] = _within(state.slo_s[model])
    row[8] = size
    row[9] = _within(memory[EXPIRES_S] - lead_s(state, size) - state.clock[NOW]) if size > 0 else 0.0


@kernel
def _write_gpu(state: ClusterState, gpu: int, model: int, row: np.ndarray) -> None:
    now_s = state.clock[NOW]
    idle = is_idle(state, gpu)
    resident = has_model(state, gpu, model)
    row[0] = state.status[gpu] == ACTIVE
    row[1] = idle
    row[2] = now_s - state.free_at_s[gpu] if idle else 0.0
    row[3] = 0.0
    row[4] = 0.0
    if state.held[gpu] > 0:
        row[3] = state.free_at_s[gpu] - now_s
        row[4] = state.batches[state.holds[gpu, 0]].num_requests
    elif state.status[gpu] == STARTING:
        row[3] = state.starts_at_s[gpu] - now_s
    row[5] = resident
    row[6] = 0.0 if resident else state.control_s + state.load_s[model]


@kernel
def may_wait(state: ClusterState, model: int) -> bool:
    """Whether something may still make the agent be asked about a model that waits."""
    if wakes_at_s(state, model) < FAR_S or state.counters[NEXT_ARRIVAL] < state.counters[NUM_REQUESTS]:
        return True
    busy = False
    for gpu in range(state.num_gpus):
        busy = busy or state.held[gpu] > 0
    return busy


@kernel
def _within(seconds: float) -> float:
    return min(seconds, MOST_S)
