"""K clusters side by side whose scheduler is the caller, all advanced by one native call.

Both forms of the environment are thin views of this; it knows nothing of Gymnasium.
"""

from collections.abc import MutableSequence
from typing import NamedTuple

import numpy as np

from servegym.costmodels.native.jit import jit, kernel
from servegym.costmodels.native.structs import struct, struct_array
from servegym.envs.batch_scenario import BatchScenario
from servegym.envs.deferred_batching.asking import agent, due_model, pause_if_due, send, wait
from servegym.envs.deferred_batching.observation import (
    CANDIDATE_FEATURES,
    GPU_FEATURES,
    MODEL_FEATURES,
    Observation,
    may_wait,
    observe,
)
from servegym.envs.deferred_batching.reward import cost_so_far
from servegym.envs.legality import ALL_LEGAL, first_illegal, refusal
from servegym.envs.sim.batch.autoscaler import Autoscaler
from servegym.envs.sim.batch.loop import run
from servegym.envs.sim.batch.queues import is_idle
from servegym.envs.sim.batch.setup import Simulation
from servegym.envs.sim.batch.simulate import BatchResults, check, results_of
from servegym.envs.sim.batch.state import ClusterState
from servegym.envs.workloads.batch_workload import BatchWorkload


class State(NamedTuple):
    """What compiled code works on: the clusters, and for each episode what is seen and what came of it."""

    clusters: MutableSequence[ClusterState]
    gpu_weight: float
    energy_weight: float
    candidate: np.ndarray  # float32 (K, CANDIDATE_FEATURES)
    models: np.ndarray  # float32 (K, M, MODEL_FEATURES)
    gpus: np.ndarray  # float32 (K, G, GPU_FEATURES)
    weights: np.ndarray  # float32 (K, G, M); (K, 1, 1) where memory is not limited
    masks: np.ndarray  # bool (K, 1 + 2 G)
    num_decisions: np.ndarray  # int64 (K,)
    costs: np.ndarray  # float64 (K,) up to now
    rewards: np.ndarray  # float64 (K,)
    finished: np.ndarray  # bool (K,)


class DeferredBatchingEpisodes:
    """K independent episodes of one scenario, of at most `max_requests` requests each.

    Written in place: `observation`, arrays with a leading axis K (observation.py), `masks`, bool
    (K, 1 + 2 G), `rewards`, float64 (K,), `finished`, bool (K,), and `num_decisions`, int64 (K,).
    An action is 0 to wait, `1 + g` to send the candidate to GPU `g`, `1 + G + g` to send it the batch that
    keeps more.
    """

    def __init__(
        self,
        scenario: BatchScenario,
        num_episodes: int,
        max_requests: int,
        autoscaler: Autoscaler | None = None,
    ) -> None:
        cluster = scenario.cluster
        num_models, num_gpus = len(cluster.models), cluster.num_gpus
        self.simulations = [
            Simulation(cluster, agent(), max_requests, autoscaler) for _ in range(num_episodes)
        ]
        self.observation: Observation = {
            "candidate": np.zeros((num_episodes, CANDIDATE_FEATURES), np.float32),
            "models": np.zeros((num_episodes, num_models, MODEL_FEATURES), np.float32),
            "gpus": np.zeros((num_episodes, num_gpus, GPU_FEATURES), np.float32),
        }
        weights = np.zeros((num_episodes, 1, 1), np.float32)
        if cluster.has_limited_memory:
            weights = np.zeros((num_episodes, num_gpus, num_models), np.float32)
            self.observation["weights"] = weights
        self.masks = np.zeros((num_episodes, 1 + 2 * num_gpus), np.bool_)
        self.num_decisions = np.zeros(num_episodes, np.int64)
        self.rewards = np.zeros(num_episodes)
        self.finished = np.zeros(num_episodes, np.bool_)
        objective = scenario.objective
        self._state = struct(
            State(
                clusters=struct_array([each.state for each in self.simulations]),
                gpu_weight=float(objective.gpu_weight),
                energy_weight=float(objective.energy_weight),
                candidate=self.observation["candidate"],
                models=self.observation["models"],
                gpus=self.observation["gpus"],
                weights=weights,
                masks=self.masks,
                num_decisions=self.num_decisions,
                costs=np.zeros(num_episodes),
                rewards=self.rewards,
                finished=self.finished,
            )
        )

    def begin(self, episode_id: int, workload: BatchWorkload) -> None:
        """Starts episode `episode_id` afresh with a workload and goes to its first decision."""
        self.simulations[episode_id].begin(workload)
        _begin(self._state, episode_id)
        check(self.simulations[episode_id])

    def step(self, actions: np.ndarray) -> None:
        """Takes one decision in every episode that is not finished, and goes on to the next one.

        actions: int64 (K,); ValueError names the first that is not legal, and then nothing has changed.
        """
        if actions.shape != self.finished.shape:
            raise ValueError(f"actions have shape {actions.shape}, must be {self.finished.shape}")
        episode_id = _step(self._state, actions)
        if episode_id != ALL_LEGAL:
            count, mask = self.num_decisions[episode_id], self.masks[episode_id]
            raise refusal(episode_id, count, actions[episode_id], mask)
        for finished_id in np.flatnonzero(self.finished).tolist():
            check(self.simulations[finished_id])

    def legal_actions(self) -> np.ndarray:
        """bool (K, 1 + 2 G), a new array."""
        return self.masks.copy()

    def results(self, episode_id: int) -> BatchResults:
        """What happened to the requests of an episode so far."""
        return results_of(self.simulations[episode_id])


@jit
def _begin(state: State, episode_id: int) -> None:
    """Goes to the first decision of an episode, whose cluster is as at the start."""
    state.num_decisions[episode_id] = 0
    state.costs[episode_id] = 0.0
    _go_on(state, episode_id)
    state.costs[episode_id] = 0.0  # what was before the first decision is charged with it


@jit
def _step(state: State, actions: np.ndarray) -> int:
    """One decision in every episode that is not finished; none where one is illegal: returns that episode."""
    illegal = first_illegal(state.masks, state.finished, actions)
    if illegal != ALL_LEGAL:
        return illegal
    for episode_id in range(actions.shape[0]):
        state.rewards[episode_id] = 0.0
        if state.finished[episode_id]:
            continue
        cluster, action = state.clusters[episode_id], actions[episode_id]
        model = due_model(cluster)
        if action == 0:
            wait(cluster, model)
        elif action <= cluster.num_gpus:
            send(cluster, model, action - 1, False)
        else:
            send(cluster, model, action - 1 - cluster.num_gpus, True)
        state.num_decisions[episode_id] += 1
        _go_on(state, episode_id)
    return ALL_LEGAL


@kernel
def _go_on(state: State, episode_id: int) -> None:
    """Takes a cluster to its next decision; what has come of the last one, and what is seen."""
    cluster = state.clusters[episode_id]
    over = False
    if not pause_if_due(cluster):
        over = run(cluster)
    cost = cost_so_far(cluster, over, state.gpu_weight, state.energy_weight)
    state.rewards[episode_id] = state.costs[episode_id] - cost
    state.costs[episode_id] = cost
    state.finished[episode_id] = over
    if over:
        state.candidate[episode_id] = 0.0
        state.models[episode_id] = 0.0
        state.gpus[episode_id] = 0.0
        state.weights[episode_id] = 0.0
        state.masks[episode_id] = True
        return
    model = due_model(cluster)
    observe(
        cluster,
        model,
        state.candidate[episode_id],
        state.models[episode_id],
        state.gpus[episode_id],
        state.weights[episode_id],
    )
    masks = state.masks[episode_id]
    masks[0] = may_wait(cluster, model)
    for gpu in range(cluster.num_gpus):
        masks[1 + gpu] = is_idle(cluster, gpu)
        masks[1 + cluster.num_gpus + gpu] = masks[1 + gpu]
