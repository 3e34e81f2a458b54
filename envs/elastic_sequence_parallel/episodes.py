"""K fleets side by side whose manager is the caller, all advanced by one native call.

Both forms of the environment are thin views of this; it knows nothing of Gymnasium.
"""

from collections.abc import MutableSequence
from typing import NamedTuple

import numpy as np

from servegym.costmodels.native.jit import jit, kernel
from servegym.costmodels.native.structs import fields_of, struct, struct_array
from servegym.envs.elastic_metrics import summarise_elastic
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.elastic_sequence_parallel.asking import advance, agent, answer, find_legal
from servegym.envs.elastic_sequence_parallel.observation import Observation, arrays, num_actions, observe
from servegym.envs.elastic_sequence_parallel.reward import cost_of
from servegym.envs.legality import ALL_LEGAL, first_illegal, refusal
from servegym.envs.sim.elastic.accrual import FIRST_TOKEN_S, PER_TOKEN_S
from servegym.envs.sim.elastic.loop import run
from servegym.envs.sim.elastic.setup import Simulation
from servegym.envs.sim.elastic.simulate import ElasticResults, check, results_of
from servegym.envs.sim.elastic.state import FleetState
from servegym.envs.workloads.workload import Workload

INTERVAL = 10
"""Decode iterations of a group from question to question [LoongServe's `max_wait`]."""

MAX_PREFILL_S = 5.0
"""Of a batch of several requests [LoongServe's artifact]."""


class State(NamedTuple):
    """What compiled code works on: the fleets, and for each episode what is seen and what came of it."""

    fleets: MutableSequence[FleetState]
    weights: np.ndarray  # float64 (4,)
    globals: np.ndarray  # float32 (K, GLOBAL_FEATURES); likewise below, as in observation.py
    choices: np.ndarray
    instances: np.ndarray
    groups: np.ndarray
    members: np.ndarray
    requests: np.ndarray
    masks: np.ndarray  # bool (K, 2 N + 4)
    num_decisions: np.ndarray  # int64 (K,)
    costs: np.ndarray  # float64 (K,) up to now
    rewards: np.ndarray  # float64 (K,)
    finished: np.ndarray  # bool (K,)


class ElasticSequenceParallelEpisodes:
    """K independent episodes of one scenario, of at most `max_requests` requests each.

    Written in place: `observation`, arrays with a leading axis K (observation.py), `masks`, bool
    (K, 2 N + 4), `rewards`, float64 (K,), `finished`, bool (K,), and `num_decisions`, int64 (K,). Actions:
    asking.py.
    """

    def __init__(self, scenario: ElasticScenario, num_episodes: int, max_requests: int) -> None:
        fleet = scenario.fleet
        self.scenario = scenario
        self._weights = np.array(scenario.weights, np.float64)
        manager = agent(INTERVAL, scenario.manager.max_requests, MAX_PREFILL_S)
        self.simulations = [Simulation(fleet, manager, max_requests) for _ in range(num_episodes)]
        self.observation: Observation = arrays(num_episodes, fleet.num_instances)
        self.masks = np.zeros((num_episodes, num_actions(fleet.num_instances)), np.bool_)
        self.num_decisions = np.zeros(num_episodes, np.int64)
        self.rewards = np.zeros(num_episodes)
        self.finished = np.zeros(num_episodes, np.bool_)
        self._state = struct(
            State(
                fleets=struct_array([each.state for each in self.simulations]),
                weights=self._weights,
                **self.observation,
                masks=self.masks,
                num_decisions=self.num_decisions,
                costs=np.zeros(num_episodes),
                rewards=self.rewards,
                finished=self.finished,
            )
        )

    def begin(self, episode_id: int, workload: Workload) -> None:
        """Starts episode `episode_id` afresh with a workload and goes to its first decision."""
        simulation = self.simulations[episode_id]
        simulation.begin(workload)
        limits = fields_of(simulation.state).limits[: workload.num_requests]
        limits[:, FIRST_TOKEN_S] = self.scenario.ttft_limit_s(workload.prompt_tokens)
        limits[:, PER_TOKEN_S] = self.scenario.slo.tpot_s
        _begin(self._state, episode_id)
        check(simulation)

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
        """bool (K, 2 N + 4), a new array."""
        return self.masks.copy()

    def results(self, episode_id: int) -> ElasticResults:
        """What happened to the requests of an episode so far."""
        return results_of(self.simulations[episode_id])

    def summary(self, episode_id: int) -> dict[str, float]:
        """Of an episode that is over: as of any run, and what it has cost by request."""
        results = self.results(episode_id)
        return {
            "cost": float(self._state.costs[episode_id]) / max(1, len(results.arrival_s)),
            **summarise_elastic(results, self.scenario),
            "num_prefills": float(results.num_prefills),
            "num_decodes": float(results.num_decodes),
            "num_decisions": float(self.num_decisions[episode_id]),
        }


@jit
def _begin(state: State, episode_id: int) -> None:
    """Goes to the first decision of an episode, whose fleet is as at the start."""
    state.num_decisions[episode_id] = 0
    state.costs[episode_id] = 0.0
    _go_on(state, episode_id, run(state.fleets[episode_id]))
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
        fleet = state.fleets[episode_id]
        answer(fleet, actions[episode_id])
        state.num_decisions[episode_id] += 1
        over = False
        if not advance(fleet):
            over = run(fleet)
        _go_on(state, episode_id, over)
    return ALL_LEGAL


@kernel
def _go_on(state: State, episode_id: int, over: bool) -> None:
    """What has come of the last decision, and what is seen at the next one."""
    fleet = state.fleets[episode_id]
    cost = cost_of(fleet.costs, state.weights)
    state.rewards[episode_id] = state.costs[episode_id] - cost
    state.costs[episode_id] = cost
    state.finished[episode_id] = over
    if over:
        state.globals[episode_id] = 0.0
        state.choices[episode_id] = 0.0
        state.instances[episode_id] = 0.0
        state.groups[episode_id] = 0.0
        state.members[episode_id] = 0.0
        state.requests[episode_id] = 0.0
        state.masks[episode_id] = True
        return
    find_legal(fleet, state.masks[episode_id])
    observe(
        fleet,
        state.masks[episode_id],
        state.globals[episode_id],
        state.choices[episode_id],
        state.instances[episode_id],
        state.groups[episode_id],
        state.members[episode_id],
        state.requests[episode_id],
    )
