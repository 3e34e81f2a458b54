"""K routing episodes side by side, all advanced by one native call.

Both forms of the environment are thin views of this; it knows nothing of Gymnasium.
"""

from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit, kernel
from servegym.costmodels.native.structs import struct
from servegym.envs.routing.observation import empty_observations
from servegym.envs.routing.reward import (
    Foresight,
    check_objective,
    cost_so_far,
    expected_wait_at,
    foresight,
    time_to_decode_s,
)
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.fleet import advance, submit
from servegym.envs.sim.llm.prefix_state import load_contents, shared_block_keys
from servegym.envs.sim.llm.setup import ReplicaSpec, clear, load_requests, new_fleet
from servegym.envs.sim.llm.simulate import Results, refuse_columns
from servegym.envs.sim.llm.state import NOBODY, Fleet
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    write_hits_of_arrival,
    write_replica_row,
    write_request_row,
)
from servegym.envs.workloads import Workload

EPISODE = np.dtype(
    [
        ("num_requests", np.int64),
        ("next_request", np.int64),  # the one to be routed; num_requests when all are
        ("now_s", np.float64),  # its arrival
        ("cost_s", np.float64),  # cost up to now
    ],
    align=True,
)


class State(NamedTuple):
    """What compiled code works on; the arrays are those of `RoutingEpisodes`."""

    fleet: Fleet
    episodes: np.ndarray
    request: np.ndarray
    replicas: np.ndarray
    rewards: np.ndarray
    finished: np.ndarray
    num_replicas: int
    max_requests: int
    ttft_weight: float
    latency_weight: float
    foresight: Foresight


class RoutingEpisodes:
    """K independent episodes of one scenario.

    max_requests: the longest episode there will be. slots: rows of the observation, at least the
    scenario's replicas. Observations are written in place into `observation`, of which `request` (K,
    REQUEST_FEATURES) and `replicas` (K, slots, REPLICA_FEATURES) change; `rewards` float64 (K,), `finished`
    bool (K,).
    """

    def __init__(
        self, scenario: Scenario, num_episodes: int, max_requests: int, slots: int | None = None
    ) -> None:
        scenario.require_plain("RoutingEpisodes")
        self.scenario = scenario
        self.num_episodes = num_episodes
        self.num_replicas = scenario.num_replicas
        self.max_requests = max_requests
        check_objective(scenario.objective)
        engine = scenario.engine
        self._most_keys = (
            scenario.traffic.max_shared_blocks(max_requests, engine.block_size)
            if engine.prefix_caching
            else 0
        )
        self.fleet = new_fleet(
            [ReplicaSpec(scenario.engine, scenario.cost)] * self.num_replicas,
            num_episodes * max_requests,
            num_episodes=num_episodes,
            num_block_keys=num_episodes * self._most_keys,
        )
        self.episodes = np.zeros(num_episodes, EPISODE).view(np.recarray)
        self.num_routed = self.episodes.next_request
        self.observation = empty_observations(num_episodes, self.num_replicas, slots, scenario.setting)
        self.request, self.replicas = self.observation["request"], self.observation["replicas"]
        self.rewards = np.zeros(num_episodes)
        self.finished = np.zeros(num_episodes, np.bool_)
        self._state = struct(
            State(
                fleet=self.fleet,
                episodes=self.episodes,
                request=self.request,
                replicas=self.replicas,
                rewards=self.rewards,
                finished=self.finished,
                num_replicas=self.num_replicas,
                max_requests=max_requests,
                ttft_weight=float(scenario.objective.ttft_weight),
                latency_weight=float(scenario.objective.latency_weight),
                foresight=foresight(scenario),
            )
        )

    def begin(self, episode_id: int, workload: Workload) -> None:
        """Starts episode `episode_id` afresh with a workload and writes its first observation."""
        engine = self.scenario.engine
        engine.check_fits(workload)
        refuse_columns(workload, ("parent", "cancel_after_s", "image_tokens"), "the environment")
        clear(self.fleet, slice(episode_id * self.num_replicas, (episode_id + 1) * self.num_replicas))
        first = episode_id * self.max_requests
        load_requests(self.fleet, np.arange(first, first + workload.num_requests, dtype=np.int32), workload)
        if engine.prefix_caching:
            self._load_contents(episode_id, workload)
        _begin(self._state, episode_id, workload.num_requests)

    def _load_contents(self, episode_id: int, workload: Workload) -> None:
        keys, offsets = shared_block_keys(workload, self.scenario.engine.block_size)
        if len(keys) > self._most_keys:
            raise InputError(
                f"workload {workload.name!r}: {len(keys)} KV blocks with shared contents, must be at most "
                f"the {self._most_keys} that the scenario's own episodes can have"
            )
        first = episode_id * self.max_requests
        open_loop = np.full(workload.num_requests, NOBODY, np.int32)
        load_contents(self.fleet.cache, first, episode_id * self._most_keys, first, keys, offsets, open_loop)

    def step(self, actions: np.ndarray) -> None:
        """Routes one request in every episode that has one left, and writes what follows.

        actions: int64 (K,), replica per episode; ValueError names the first that is not legal.
        """
        episode_id = _step(self._state, actions)
        if episode_id != NOBODY:
            raise ValueError(
                f"action {actions[episode_id]} in environment {episode_id}, decision "
                f"{self.episodes[episode_id].next_request}: must be a replica from 0 to "
                f"{self.num_replicas - 1}"
            )

    def legal_actions(self) -> np.ndarray:
        """bool (K, slots): True where a replica may be chosen."""
        return self.replicas[:, :, AVAILABLE] > 0

    def results(self, episode_id: int) -> Results:
        """What happened to the requests of an episode so far."""
        first = episode_id * self.max_requests
        num_requests = int(self.episodes["num_requests"][episode_id])
        return Results.of(self.fleet, slice(first, first + num_requests), episode_id * self.num_replicas)


@kernel
def _route(state: State, episode_id: int, action: int) -> float:
    """Sends the episode's next request to replica `action` and goes on to the one after it.

    Returns the seconds between the two; after the last request time goes on until all have finished.
    """
    fleet, episode = state.fleet, state.episodes[episode_id]
    request_id = episode_id * state.max_requests + episode.next_request
    submit(fleet, episode_id * state.num_replicas + action, request_id)
    episode.next_request += 1
    gap_s = 0.0
    if episode.next_request < episode.num_requests:
        now_s = fleet.requests[request_id + 1].arrival_s
        gap_s = now_s - episode.now_s
        episode.now_s = now_s
    return gap_s


@kernel
def _observe(state: State, episode_id: int, gap_s: float) -> float:
    """Brings the fleet to the episode's next decision, or to its end, and writes what the agent sees.

    Returns the cost so far, see reward.py.
    """
    fleet, episode = state.fleet, state.episodes[episode_id]
    request_id, until_s = NOBODY, np.inf
    if episode.next_request < episode.num_requests:
        request_id = episode_id * state.max_requests + episode.next_request
        until_s = episode.now_s
        write_request_row(fleet, request_id, gap_s, state.request[episode_id])
    else:
        state.request[episode_id] = 0.0
    ttft_offset_s, latency_offset_s, expected_s, decoding_s = 0.0, 0.0, 0.0, 0.0
    num_before_first_token, num_unfinished = 0, 0
    for number in range(state.num_replicas):
        replica_id = episode_id * state.num_replicas + number
        advance(fleet, replica_id, until_s)
        row = state.replicas[episode_id, number]
        write_replica_row(fleet, replica_id, episode.now_s, row)
        write_hits_of_arrival(fleet, replica_id, request_id, row)
        replica = fleet.replicas[replica_id]
        ttft_offset_s += replica.ttft_offset_s
        latency_offset_s += replica.latency_offset_s
        num_before_first_token += replica.num_before_first_token
        num_unfinished += replica.num_unfinished
        if state.foresight.prefill_s_per_token > 0:
            expected_s += expected_wait_at(replica, episode.now_s, state.foresight.prefill_s_per_token)
            if state.latency_weight > 0:
                decoding_s += time_to_decode_s(fleet, replica_id, 1.0, state.foresight)
    expected = expected_s * (state.ttft_weight + state.latency_weight) + decoding_s * state.latency_weight
    return expected + cost_so_far(
        ttft_offset_s,
        num_before_first_token,
        latency_offset_s,
        num_unfinished,
        episode.now_s,
        state.ttft_weight,
        state.latency_weight,
    )


@jit
def _begin(state: State, episode_id: int, num_requests: int) -> None:
    """The first decision of an episode whose requests have been loaded."""
    episode = state.episodes[episode_id]
    episode.num_requests = num_requests
    episode.next_request = 0
    episode.now_s = state.fleet.requests[episode_id * state.max_requests].arrival_s
    state.finished[episode_id] = False
    episode.cost_s = _observe(state, episode_id, 0.0)


@jit
def _step(state: State, actions: np.ndarray) -> int:
    """One decision in every episode that is not finished; none where one is illegal: returns that episode."""
    for episode_id in range(actions.size):
        action = actions[episode_id]
        if (action < 0 or action >= state.num_replicas) and not state.finished[episode_id]:
            return episode_id
    for episode_id in range(actions.size):
        state.rewards[episode_id] = 0.0
        if state.finished[episode_id]:
            continue
        episode = state.episodes[episode_id]
        gap_s = _route(state, episode_id, actions[episode_id])
        cost_s = _observe(state, episode_id, gap_s)
        state.finished[episode_id] = episode.next_request == episode.num_requests
        state.rewards[episode_id] = episode.cost_s - cost_s
        episode.cost_s = cost_s
    return NOBODY
