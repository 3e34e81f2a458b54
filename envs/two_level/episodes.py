"""K episodes of a fleet side by side, whose router and whose engines' schedulers are the caller.

One native call takes one decision in each. All forms of the environment are thin views of this.
"""

from typing import NamedTuple

import numpy as np

from servegym.costmodels.native.jit import jit, kernel
from servegym.costmodels.native.structs import struct
from servegym.envs.batching.foresight import OCTAVES, expected_latency_s
from servegym.envs.batching.reward import cost_since, objective_record
from servegym.envs.batching.scheduled import ScheduledEpisodes
from servegym.envs.legality import ALL_LEGAL, first_illegal
from servegym.envs.routing.reward import Foresight, foresight
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.decision_view import ENGINE_FEATURES, ROW_FEATURES, write_decision
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS, decide, next_decision
from servegym.envs.sim.llm.fleet import submit
from servegym.envs.sim.llm.state import NOBODY, Fleet
from servegym.envs.sim.llm.view import (
    REPLICA_FEATURES,
    REQUEST_FEATURES,
    write_replica_row,
    write_request_row,
)
from servegym.envs.two_level.observation import ROUTING, SCHEDULING, Observation

EPISODE = np.dtype(
    [
        ("num_requests", np.int64),
        ("next_request", np.int64),  # the next to be routed; num_requests when all are
        ("num_decisions", np.int64),
        ("num_open", np.int64),  # requests that have been routed and not been counted as finished
        ("num_attained", np.int64),  # finished within the limits of the objective
        ("now_s", np.float64),
        ("gap_s", np.float64),  # between the last two arrivals
        ("start_s", np.float64),  # its first arrival
        ("cost", np.float64),  # up to now
        ("expected_s", np.float64),  # latency that is still to come, as far as it is charged beforehand
    ],
    align=True,
)


class State(NamedTuple):
    """What compiled code works on: the fleet, and for each episode its record, observation and outcome."""

    fleet: Fleet
    episodes: np.ndarray  # EPISODE (K,)
    objective: np.ndarray  # OBJECTIVE (1,)
    foresight: Foresight
    octaves: np.ndarray  # int64 (2, OCTAVES), to work in
    level: np.ndarray  # int64 (K,)
    replica: np.ndarray  # int64 (K,)
    request: np.ndarray  # float32 (K, REQUEST_FEATURES)
    replicas: np.ndarray  # float32 (K, R, REPLICA_FEATURES)
    setting: np.ndarray  # float32 (K, SETTING_FEATURES), not touched
    engine: np.ndarray  # float32 (K, ENGINE_FEATURES)
    requests: np.ndarray  # float32 (K, NUM_ROWS, ROW_FEATURES)
    row_ids: np.ndarray  # int32 (K, NUM_ROWS), request of each row
    open_ids: np.ndarray  # int32 (K, max_requests)
    masks: np.ndarray  # bool (K, R + NUM_CHOICES)
    rewards: np.ndarray  # float64 (K,)
    finished: np.ndarray  # bool (K,)


class TwoLevelEpisodes(ScheduledEpisodes):
    """K independent episodes of one scenario.

    Each call writes in place: `observation`, arrays with a leading axis K (observation.py), `masks`, bool
    (K, R + NUM_CHOICES), and `row_ids`, int32 (K, NUM_ROWS), the request of each row. An action is, below R,
    the replica that gets the request, from R on a choice as in batching for the replica that is due. The
    first decision routes the first request.
    """

    def __init__(self, scenario: Scenario, num_episodes: int, max_requests: int) -> None:
        count = scenario.num_replicas
        super().__init__(scenario, num_episodes, max_requests, EPISODE, count + NUM_CHOICES)
        self.observation: Observation = {
            "level": np.zeros(num_episodes, np.int64),
            "replica": np.zeros(num_episodes, np.int64),
            "request": np.zeros((num_episodes, REQUEST_FEATURES), np.float32),
            "replicas": np.zeros((num_episodes, count, REPLICA_FEATURES), np.float32),
            "setting": np.tile(scenario.setting, (num_episodes, 1)),
            "engine": np.zeros((num_episodes, ENGINE_FEATURES), np.float32),
            "requests": np.zeros((num_episodes, NUM_ROWS, ROW_FEATURES), np.float32),
        }
        self.row_ids = np.zeros((num_episodes, NUM_ROWS), np.int32)
        self._state = struct(
            State(
                fleet=self.fleet,
                episodes=self.episodes,
                objective=objective_record(scenario),
                foresight=foresight(scenario),
                octaves=np.zeros((2, OCTAVES), np.int64),
                row_ids=self.row_ids,
                open_ids=np.zeros((num_episodes, max_requests), np.int32),
                masks=self.masks,
                rewards=self.rewards,
                finished=self.finished,
                **self.observation,
            )
        )

    def _go_to_first_decision(self, episode_id: int) -> None:
        _begin(self._state, episode_id)

    def _take(self, actions: np.ndarray) -> int:
        return _step(self._state, actions)


@kernel
def _go_on(state: State, episode_id: int) -> bool:
    """Takes the fleet to the next decision of either level; False where there is none left."""
    fleet, episode = state.fleet, state.episodes[episode_id]
    num_replicas = state.replicas.shape[1]
    all_routed = episode.next_request == episode.num_requests
    request_id = episode_id * state.open_ids.shape[1] + episode.next_request
    arrival_s = np.inf if all_routed else fleet.requests[request_id].arrival_s
    first = episode_id * num_replicas
    due = next_decision(fleet, first, num_replicas, arrival_s)
    if due != NOBODY:
        state.level[episode_id], state.replica[episode_id] = SCHEDULING, due - first
        episode.now_s = fleet.replicas[due].clock_s
        return True
    state.level[episode_id], state.replica[episode_id] = ROUTING, 0
    if all_routed:
        for replica_id in range(first, first + num_replicas):
            episode.now_s = max(episode.now_s, fleet.replicas[replica_id].clock_s)
        return False
    episode.now_s = arrival_s
    return True


@kernel
def _route(state: State, episode_id: int, replica: int) -> None:
    fleet, episode = state.fleet, state.episodes[episode_id]
    request_id = episode_id * state.open_ids.shape[1] + episode.next_request
    submit(fleet, episode_id * state.replicas.shape[1] + replica, request_id)
    state.open_ids[episode_id, episode.num_open] = request_id
    episode.num_open += 1
    episode.next_request += 1
    if episode.next_request < episode.num_requests:
        episode.gap_s = fleet.requests[request_id + 1].arrival_s - fleet.requests[request_id].arrival_s


@kernel
def _reward(state: State, episode_id: int) -> float:
    """Minus what the cost has grown by since the last decision, with the latency still expected."""
    episode, count = state.episodes[episode_id], state.replicas.shape[1]
    open_ids, objective = state.open_ids[episode_id], state.objective[0]
    now_s, routed = episode.now_s, episode.next_request
    first = episode_id * count
    cost = cost_since(state.fleet, first, count, episode, open_ids, now_s, routed, objective)
    if objective.latency_weight > 0 and state.foresight.prefill_s_per_token > 0:
        expected_s = 0.0
        for replica_id in range(first, first + count):
            expected_s += expected_latency_s(
                state.fleet, replica_id, state.foresight, state.octaves[0], state.octaves[1]
            )
        cost += objective.latency_weight * (expected_s - episode.expected_s)
        episode.expected_s = expected_s
    return -cost


@kernel
def _observe(state: State, episode_id: int) -> None:
    fleet, episode = state.fleet, state.episodes[episode_id]
    count = state.replicas.shape[1]
    first = episode_id * count
    for replica in range(count):
        write_replica_row(fleet, first + replica, episode.now_s, state.replicas[episode_id, replica])
    mask = state.masks[episode_id]
    scheduling = state.level[episode_id] == SCHEDULING
    mask[:count] = not scheduling and not state.finished[episode_id]
    if scheduling:
        state.request[episode_id] = 0.0
        write_decision(
            fleet,
            first + state.replica[episode_id],
            state.engine[episode_id],
            state.requests[episode_id],
            state.row_ids[episode_id],
            mask[count:],
        )
        return
    mask[count:] = False
    state.engine[episode_id] = 0.0
    state.requests[episode_id] = 0.0
    if state.finished[episode_id]:
        state.request[episode_id] = 0.0
    else:
        request_id = episode_id * state.open_ids.shape[1] + episode.next_request
        write_request_row(fleet, request_id, episode.gap_s, state.request[episode_id])


@jit
def _begin(state: State, episode_id: int) -> None:
    """Goes to the first decision of an episode."""
    episode = state.episodes[episode_id]
    episode.start_s = state.fleet.requests[episode_id * state.open_ids.shape[1]].arrival_s
    episode.now_s = episode.start_s
    _go_on(state, episode_id)
    _observe(state, episode_id)


@jit
def _step(state: State, actions: np.ndarray) -> int:
    """One decision in every episode that is not finished; none where one is illegal: returns that episode."""
    illegal = first_illegal(state.masks, state.finished, actions)
    if illegal != ALL_LEGAL:
        return illegal
    count = state.replicas.shape[1]
    for episode_id in range(actions.shape[0]):
        state.rewards[episode_id] = 0.0
        if state.finished[episode_id]:
            continue
        action = actions[episode_id]
        if action < count:
            _route(state, episode_id, action)
        else:
            replica_id = episode_id * count + state.replica[episode_id]
            decide(state.fleet, replica_id, action - count, state.row_ids[episode_id])
        state.episodes[episode_id].num_decisions += 1
        if action < count or action >= count + NUM_ROWS:
            state.finished[episode_id] = not _go_on(state, episode_id)
        state.rewards[episode_id] = _reward(state, episode_id)
        _observe(state, episode_id)
    return ALL_LEGAL
