"""K episodes of one replica each, side by side, all advanced by one native call.

Both forms of the environment are thin views of this; it knows nothing of Gymnasium.
"""

from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit, kernel
from servegym.costmodels.native.structs import struct
from servegym.envs.batching.observation import FLAT_FEATURES, observation_of
from servegym.envs.batching.reward import cost_since, objective_record
from servegym.envs.batching.scheduled import ScheduledEpisodes
from servegym.envs.legality import ALL_LEGAL, first_illegal
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.decision_view import write_decision
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS, decide, decide_by_scores
from servegym.envs.sim.llm.fleet import advance, submit
from servegym.envs.sim.llm.state import Fleet

EPISODE = np.dtype(
    [
        ("num_requests", np.int64),
        ("next_request", np.int64),  # the next to arrive; num_requests when all have
        ("num_decisions", np.int64),
        ("num_open", np.int64),  # requests that have arrived and not been counted as finished
        ("num_attained", np.int64),  # finished within the limits of the objective
        ("start_s", np.float64),  # its first arrival
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


class BatchingEpisodes(ScheduledEpisodes):
    """K independent episodes of one scenario with one replica.

    Observations are written in place into `rows`, float32 (K, FLAT_FEATURES), with the view `requests`
    (K, NUM_ROWS, ROW_FEATURES), and into `masks`, bool (K, NUM_CHOICES); `row_ids`, int32 (K, NUM_ROWS), has
    the request of each row. An action is a row to act on, or NUM_ROWS plus the number of a share to run with.
    """

    def __init__(self, scenario: Scenario, num_episodes: int, max_requests: int) -> None:
        if scenario.num_replicas != 1:
            raise InputError(
                f"scenario.fleet.replicas = {scenario.num_replicas}: servegym/Batching-v0 schedules one "
                "replica, must be 1"
            )
        super().__init__(scenario, num_episodes, max_requests, EPISODE, NUM_CHOICES)
        self.rows = np.zeros((num_episodes, FLAT_FEATURES), np.float32)
        seen = observation_of(self.rows, flat=False)
        self.requests = seen["requests"]
        self.row_ids = np.zeros((num_episodes, NUM_ROWS), np.int32)
        self._state = struct(
            State(
                fleet=self.fleet,
                episodes=self.episodes,
                objective=objective_record(scenario),
                **seen,
                row_ids=self.row_ids,
                open_ids=np.zeros((num_episodes, max_requests), np.int32),
                masks=self.masks,
                rewards=self.rewards,
                finished=self.finished,
            )
        )

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

    def _go_to_first_decision(self, episode_id: int) -> None:
        _begin(self._state, episode_id)

    def _take(self, actions: np.ndarray) -> int:
        return _step(self._state, actions)


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
def _reward(state: State, episode_id: int) -> float:
    """Minus what the cost has grown by since the last decision."""
    episode, now_s = state.episodes[episode_id], state.fleet.replicas[episode_id].clock_s
    open_ids, objective = state.open_ids[episode_id], state.objective[0]
    arrived = episode.next_request
    return -cost_since(state.fleet, episode_id, 1, episode, open_ids, now_s, arrived, objective)


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
    state.episodes[episode_id].start_s = state.fleet.requests[episode_id * state.open_ids.shape[1]].arrival_s
    _go_on(state, episode_id)
    _observe(state, episode_id)


@jit
def _step(state: State, choices: np.ndarray) -> int:
    """One decision in every episode that is not finished; none where one is illegal: returns that episode."""
    illegal = first_illegal(state.masks, state.finished, choices)
    if illegal != ALL_LEGAL:
        return illegal
    for episode_id in range(choices.shape[0]):
        state.rewards[episode_id] = 0.0
        if state.finished[episode_id]:
            continue
        choice = choices[episode_id]
        decide(state.fleet, episode_id, choice, state.row_ids[episode_id])
        state.episodes[episode_id].num_decisions += 1
        if choice >= NUM_ROWS:
            state.finished[episode_id] = not _go_on(state, episode_id)
        state.rewards[episode_id] = _reward(state, episode_id)
        _observe(state, episode_id)
    return ALL_LEGAL


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
        state.rewards[episode_id] = _reward(state, episode_id)
        _observe(state, episode_id)
