"""K episodes of one replica each, side by side, all advanced by one native call.

Both forms of the environment are thin views of this; it knows nothing of Gymnasium.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.jit import jit, kernel
from servegym.costmodels.structs import struct
from servegym.envs.batching.observation import FLAT_FEATURES
from servegym.envs.batching.reward import count_attained, episode_cost, objective_record
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.decision_view import ENGINE_FEATURES, ROW_FEATURES, write_decision
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS, decide, decide_by_scores
from servegym.envs.sim.llm.fleet import advance, submit
from servegym.envs.sim.llm.setup import ReplicaSpec, clear, load_requests, new_fleet
from servegym.envs.sim.llm.simulate import Results, refuse_columns
from servegym.envs.sim.llm.state import Fleet
from servegym.envs.workloads import Workload

EPISODE = np.dtype(
    [
        ("num_requests", np.int64),
        ("next_request", np.int64),  # the next to arrive; num_requests when all have
        ("num_decisions", np.int64),
        ("num_open", np.int64),  # requests that have arrived and not been counted as finished
        ("num_attained", np.int64),  # finished within the limits of the objective
        ("cost", np.float64),  # up to now
    ],
    align=True,
)


class State(NamedTuple):
    """What compiled code works on: the fleet, and for each episode its record, observation and outcome."""

    fleet: Fleet
    episodes: np.ndarray  # EPISODE (K,)
    objective: np.ndarray  # OBJECTIVE (1,)
    engine: np.ndarray  # float32 (K, ENGINE_FEATURES)
    requests: np.ndarray  # float32 (K, NUM_ROWS, ROW_FEATURES)
    row_ids: np.ndarray  # int32 (K, NUM_ROWS), request of each row
    open_ids: np.ndarray  # int32 (K, max_requests)
    masks: np.ndarray  # bool (K, NUM_CHOICES)
    rewards: np.ndarray  # float64 (K,)
    finished: np.ndarray  # bool (K,)


class BatchingEpisodes:
    """K independent episodes of one scenario with one replica.

    max_requests: the longest episode there will be. Observations are written in place into `rows`, float32
    (K, FLAT_FEATURES), with the view `requests` (K, NUM_ROWS, ROW_FEATURES), and into `masks`, bool
    (K, NUM_CHOICES); `rewards` float64 (K,), `finished` bool (K,).
    """

    def __init__(self, scenario: Scenario, num_episodes: int, max_requests: int) -> None:
        if scenario.num_replicas != 1:
            raise InputError(
                f"scenario.fleet.replicas = {scenario.num_replicas}: servegym/Batching-v0 schedules one "
                "replica, must be 1"
            )
        self.num_episodes = num_episodes
        self.max_requests = max_requests
        self.engine = replace(scenario.engine, scheduler="agent")
        self.fleet = new_fleet(
            [ReplicaSpec(self.engine, scenario.cost)], num_episodes * max_requests, num_episodes=num_episodes
        )
        self.episodes = np.zeros(num_episodes, EPISODE).view(np.recarray)
        self.rows = np.zeros((num_episodes, FLAT_FEATURES), np.float32)
        self.masks = np.zeros((num_episodes, NUM_CHOICES), np.bool_)
        self.rewards = np.zeros(num_episodes)
        self.finished = np.zeros(num_episodes, np.bool_)
        self.requests = self.rows[:, ENGINE_FEATURES:].reshape(num_episodes, NUM_ROWS, ROW_FEATURES)
        self._state = struct(
            State(
                fleet=self.fleet,
                episodes=self.episodes,
                objective=objective_record(scenario),
                engine=self.rows[:, :ENGINE_FEATURES],
                requests=self.requests,
                row_ids=np.zeros((num_episodes, NUM_ROWS), np.int32),
                open_ids=np.zeros((num_episodes, max_requests), np.int32),
                masks=self.masks,
                rewards=self.rewards,
                finished=self.finished,
            )
        )

    def begin(self, episode_id: int, workload: Workload) -> None:
        """Starts episode `episode_id` afresh with a workload and goes to its first decision."""
        self.engine.check_fits(workload)
        refuse_columns(workload, ("parent", "cancel_after_s", "image_tokens"), "the environment")
        clear(self.fleet, slice(episode_id, episode_id + 1))
        first = episode_id * self.max_requests
        load_requests(self.fleet, np.arange(first, first + workload.num_requests, dtype=np.int32), workload)
        self.episodes[episode_id] = np.zeros((), EPISODE)
        self.episodes[episode_id].num_requests = workload.num_requests
        self.finished[episode_id] = False
        _begin(self._state, episode_id)

    def step(self, choices: np.ndarray) -> None:
        """Takes one decision in every episode that is not finished, and goes on to the next one.

        choices: int64 (K,), a row to act on or NUM_ROWS plus the number of a share to run with; ValueError
        names the first that is not legal, and then nothing has changed.
        """
        inside = (choices >= 0) & (choices < NUM_CHOICES)
        legal = inside & self.masks[np.arange(self.num_episodes), np.where(inside, choices, 0)]
        legal |= self.finished
        if not legal.all():
            episode_id = int(np.argmin(legal))
            raise ValueError(
                f"action {choices[episode_id]} in environment {episode_id}, decision "
                f"{self.episodes[episode_id].num_decisions}: must be one that action_masks() allows: "
                f"{np.flatnonzero(self.masks[episode_id]).tolist()}"
            )
        _step(self._state, choices)

    def step_by_scores(self, scores: np.ndarray) -> None:
        """Decides on one iteration in every episode that is not finished, and goes on to the next decision.

        scores: float64 (K, NUM_ROWS + 1), see `decide_by_scores`; ValueError names the first outside -1 to 1,
        and then nothing has changed.
        """
        legal = (np.abs(scores) <= 1).all(axis=1) | self.finished
        if not legal.all():
            episode_id = int(np.argmin(legal))
            raise ValueError(
                f"action in environment {episode_id}, decision {self.episodes[episode_id].num_decisions}: "
                f"has {scores[episode_id][~(np.abs(scores[episode_id]) <= 1)][0]}, must be from -1 to 1"
            )
        _step_by_scores(self._state, scores)

    def results(self, episode_id: int) -> Results:
        """What happened to the requests of an episode so far."""
        first = episode_id * self.max_requests
        num_requests = int(self.episodes[episode_id].num_requests)
        return Results.of(self.fleet, slice(first, first + num_requests), episode_id)


@kernel
def _go_on(state: State, episode_id: int) -> bool:
    """Takes the replica to its next decision, with every arrival until then; False where none is left."""
    fleet, episode = state.fleet, state.episodes[episode_id]
    replica = fleet.replicas[episode_id]
    while True:
        request_id = episode_id * state.open_ids.shape[1] + episode.next_request
        arrived = episode.next_request == episode.num_requests
        until_s = np.inf if arrived else fleet.requests[request_id].arrival_s
        advance(fleet, episode_id, until_s)
        if replica.in_flight == 0 and replica.num_unfinished > 0 and replica.clock_s < until_s:
            return True
        if arrived:
            return False
        submit(fleet, episode_id, request_id)
        state.open_ids[episode_id, episode.num_open] = request_id
        episode.num_open += 1
        episode.next_request += 1


@kernel
def _cost_since(state: State, episode_id: int) -> float:
    """Brings the episode's cost up to now; returns its increase."""
    fleet, episode, objective = state.fleet, state.episodes[episode_id], state.objective[0]
    replica = fleet.replicas[episode_id]
    if objective.slo_weight > 0 and episode.num_open > replica.num_unfinished:
        episode.num_attained += count_attained(
            fleet, state.open_ids[episode_id], episode.num_open, objective.slo_ttft_s, objective.slo_tpot_s
        )
        episode.num_open = replica.num_unfinished
    now_s, arrived, attained = replica.clock_s, episode.next_request, episode.num_attained
    cost = episode_cost(fleet, episode_id, 1, now_s, arrived, attained, objective)
    increase: float = cost - episode.cost
    episode.cost = cost
    return increase


@kernel
def _observe(state: State, episode_id: int) -> None:
    write_decision(
        state.fleet,
        episode_id,
        state.engine[episode_id],
        state.requests[episode_id],
        state.row_ids[episode_id],
        state.masks[episode_id],
    )


@jit
def _begin(state: State, episode_id: int) -> None:
    """Goes to the first decision of an episode."""
    _go_on(state, episode_id)
    _observe(state, episode_id)


@jit
def _step(state: State, choices: np.ndarray) -> None:
    """One decision in every episode that is not finished."""
    for episode_id in range(choices.shape[0]):
        state.rewards[episode_id] = 0.0
        if state.finished[episode_id]:
            continue
        choice = choices[episode_id]
        decide(state.fleet, episode_id, choice, state.row_ids[episode_id])
        state.episodes[episode_id].num_decisions += 1
        if choice >= NUM_ROWS:
            state.finished[episode_id] = not _go_on(state, episode_id)
        state.rewards[episode_id] = -_cost_since(state, episode_id)
        _observe(state, episode_id)


@jit
def _step_by_scores(state: State, scores: np.ndarray) -> None:
    """The decisions of one iteration in every episode that is not finished."""
    for episode_id in range(scores.shape[0]):
        state.rewards[episode_id] = 0.0
        if state.finished[episode_id]:
            continue
        decide_by_scores(state.fleet, episode_id, scores[episode_id], state.row_ids[episode_id])
        state.episodes[episode_id].num_decisions += 1
        state.finished[episode_id] = not _go_on(state, episode_id)
        state.rewards[episode_id] = -_cost_since(state, episode_id)
        _observe(state, episode_id)
