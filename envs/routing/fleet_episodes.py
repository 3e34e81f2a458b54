"""K routing episodes side by side on any fleet: replicas that differ, roles, failures, old state, and so on.

A decision is due whenever a request comes to the router: when it arrives, between the stages of its way
(encode, prefill, decode), and when the replica has failed that it was on. Legal are the replicas that are
available for it. `RoutingEpisodes` plays the plain fleet faster.
"""

from collections.abc import MutableSequence
from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit, kernel, routine
from servegym.costmodels.native.structs import struct, struct_array
from servegym.envs.routing.episodes import RoutingEpisodes
from servegym.envs.routing.fleet_cost import OPEN_REQUESTS, cost_s, expected_cost_s
from servegym.envs.routing.fleet_rebalancing import EpisodeRebalancers
from servegym.envs.routing.observation import empty_observations
from servegym.envs.routing.reward import Foresight, check_objective, foresight
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.cluster.looks import write_rows, write_rows_of
from servegym.envs.sim.llm.cluster.loop import (
    DECISION,
    DONE,
    NO_ROOM,
    REBALANCING,
    route,
    run_until_decision,
)
from servegym.envs.sim.llm.cluster.places import touch
from servegym.envs.sim.llm.cluster.setup import new_cluster, with_more_room
from servegym.envs.sim.llm.cluster.simulate import results_of
from servegym.envs.sim.llm.cluster.state import Cluster
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.sim.llm.state import NOBODY
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    PREFIX_HIT_TOKENS,
    REPLICA_FEATURES,
    REQUEST_FEATURES,
    ROUTER_REPLICA_FEATURES,
)
from servegym.envs.workloads import Workload

EPISODE = np.dtype(
    [
        ("num_requests", np.int64),
        ("num_routed", np.int64),  # of these, at least once
        ("num_decisions", np.int64),
        ("now_s", np.float64),  # of the last decision
        ("cost_s", np.float64),  # up to now
        *OPEN_REQUESTS,
    ],
    align=True,
)


RUNNING = -1
"""In place of why a fleet has stopped: it is to go on."""


class State(NamedTuple):
    """What compiled code works on; arrays with a leading axis K are those of `FleetRoutingEpisodes`.

    open_requests: int32 (K, N). status: int64 (K,), why each fleet has stopped, or RUNNING. rows: float64 (R,
    ROUTER_REPLICA_FEATURES) and request_row: float64 (REQUEST_FEATURES,), for the observation being written.
    """

    clusters: MutableSequence[Cluster]
    episodes: np.ndarray
    open_requests: np.ndarray
    request: np.ndarray
    replicas: np.ndarray
    rewards: np.ndarray
    finished: np.ndarray
    status: np.ndarray
    rows: np.ndarray
    request_row: np.ndarray
    ttft_weight: float
    latency_weight: float
    foresight: Foresight


class FleetRoutingEpisodes:
    """K independent episodes of one scenario, with the interface of `RoutingEpisodes`.

    An episode is finished until it is begun.
    """

    def __init__(
        self, scenario: Scenario, num_episodes: int, max_requests: int, slots: int | None = None
    ) -> None:
        check_objective(scenario.objective)
        self.scenario = scenario
        self.num_episodes = num_episodes
        self.num_replicas = scenario.num_replicas
        self.max_requests = max_requests
        self.observation = empty_observations(num_episodes, self.num_replicas, slots, scenario.setting)
        self.request, self.replicas = self.observation["request"], self.observation["replicas"]
        self.episodes = np.zeros(num_episodes, EPISODE).view(np.recarray)
        self.num_routed = self.episodes.num_routed
        self.rewards = np.zeros(num_episodes)
        self.finished = np.ones(num_episodes, np.bool_)
        self._status = np.full(num_episodes, DONE)
        migration = scenario.plan.migration
        self._rebalancers = (
            EpisodeRebalancers(migration.rule, num_episodes, self.num_replicas) if migration else None
        )
        self._state: State | None = None

    def begin(self, episode_id: int, workload: Workload) -> None:
        """Starts episode `episode_id` afresh with a workload and writes its first observation.

        Raises InputError where a request fits nowhere, and where no request is ever to be routed.
        """
        if workload.num_requests > self.max_requests:
            raise InputError(
                f"workload {workload.name!r}: {workload.num_requests} requests, must be at most "
                f"{self.max_requests} in an episode"
            )
        cluster = new_cluster(workload, self.scenario.plan)
        if self._state is None:
            self._state = self._new_state(cluster)
        self._state.clusters[episode_id] = cluster
        self.episodes[episode_id] = np.zeros((), EPISODE)
        self.episodes[episode_id].num_requests = workload.num_requests
        if self._rebalancers is not None:
            self._rebalancers.begin(episode_id)
        self.finished[episode_id] = False
        self._status[episode_id] = RUNNING
        self._go_on(np.full(self.num_episodes, NOBODY))
        if self.finished[episode_id]:
            raise InputError(
                f"workload {workload.name!r}: no replica is ever available for any of its "
                f"{workload.num_requests} requests, must be for at least one"
            )

    def step(self, actions: np.ndarray) -> None:
        """Routes one request in every episode that has one left, and writes what follows.

        actions: int64 (K,), replica per episode; ValueError names the first that is not legal.
        """
        self._refuse_illegal(actions)
        self.rewards[:] = 0.0
        self._go_on(np.where(self.finished, NOBODY, actions))

    def legal_actions(self) -> np.ndarray:
        """bool (K, slots): True where a replica may be chosen."""
        return self.replicas[:, :, AVAILABLE] > 0

    def results(self, episode_id: int) -> Results:
        """What happened to the requests of an episode so far."""
        assert self._state is not None, "no episode has begun"
        return results_of(self._state.clusters[episode_id])

    def _new_state(self, cluster: Cluster) -> State:
        """The state, with a fleet like those that will be begun in every place."""
        objective = self.scenario.objective
        return struct(
            State(
                clusters=struct_array([cluster] * self.num_episodes),
                episodes=self.episodes,
                open_requests=np.zeros((self.num_episodes, self.max_requests), np.int32),
                request=self.request,
                replicas=self.replicas,
                rewards=self.rewards,
                finished=self.finished,
                status=self._status,
                rows=np.zeros((self.num_replicas, ROUTER_REPLICA_FEATURES)),
                request_row=np.zeros(REQUEST_FEATURES),
                ttft_weight=float(objective.ttft_weight),
                latency_weight=float(objective.latency_weight),
                foresight=foresight(self.scenario),
            )
        )

    def _refuse_illegal(self, actions: np.ndarray) -> None:
        known = (actions >= 0) & (actions < self.num_replicas)
        legal = self.finished | (
            known & self.legal_actions()[np.arange(self.num_episodes), np.where(known, actions, 0)]
        )
        if not legal.all():
            episode_id = int(np.argmin(legal))
            allowed = np.flatnonzero(self.legal_actions()[episode_id])
            raise ValueError(
                f"action {actions[episode_id]} in environment {episode_id}, decision "
                f"{self.episodes[episode_id].num_decisions}: must be one of the available replicas "
                f"{', '.join(map(str, allowed))}"
            )

    def _go_on(self, actions: np.ndarray) -> None:
        """Takes actions, where they are not NOBODY, and runs every fleet to its next decision or its end."""
        assert self._state is not None, "no episode has begun"
        clusters = self._state.clusters
        while _go_on(self._state, actions) > 0:
            for episode_id in np.flatnonzero(self._status == NO_ROOM).tolist():
                clusters[episode_id] = with_more_room(clusters[episode_id])
            for episode_id in np.flatnonzero(self._status == REBALANCING).tolist():
                assert self._rebalancers is not None
                self._rebalancers.rebalance(episode_id, struct(clusters[episode_id]))


@jit
def _go_on(state: State, actions: np.ndarray) -> int:
    """One decision in every episode with an action, which is removed, up to the next.

    Returns how many have stopped before that, for want of room or of the rebalancer.
    """
    stuck = 0
    for episode_id in range(actions.size):
        cluster, episode = state.clusters[episode_id], state.episodes[episode_id]
        if actions[episode_id] != NOBODY:
            _route(cluster, episode, actions[episode_id])
            actions[episode_id] = NOBODY
            state.status[episode_id] = RUNNING
        if state.status[episode_id] == DECISION or state.status[episode_id] == DONE:
            continue
        state.status[episode_id] = run_until_decision(cluster)
        if state.status[episode_id] == DECISION or state.status[episode_id] == DONE:
            _observe(state, episode_id, cluster, episode)
        else:
            stuck += 1
    return stuck


@kernel
def _route(cluster: Cluster, episode: np.record, action: int) -> None:
    episode.num_routed += cluster.journeys[cluster.control[0].cursor].sends == 0
    episode.num_decisions += 1
    route(cluster, action)


@routine
def _observe(state: State, episode_id: int, cluster: Cluster, episode: np.record) -> None:
    """Writes what the agent sees of a fleet that has come to a decision, or to its end, and the reward."""
    finished = state.status[episode_id] == DONE
    rows, request = state.rows, state.request_row
    if finished:
        write_rows_of(cluster, cluster.control[0].now_s, rows)
        rows[:, PREFIX_HIT_TOKENS] = 0.0
        request[:] = 0.0
    else:
        episode.now_s = cluster.control[0].now_s
        write_rows(cluster, cluster.control[0].cursor, True, rows, request)
    for replica_id in range(rows.shape[0]):
        touch(cluster, replica_id)  # of old state it was not looked at
        for column in range(REPLICA_FEATURES):
            state.replicas[episode_id, replica_id, column] = rows[replica_id, column]
    for column in range(request.size):
        state.request[episode_id, column] = request[column]
    weights = state.ttft_weight, state.latency_weight
    cost = cost_s(cluster, episode, state.open_requests[episode_id], weights[0], weights[1])
    if state.foresight.prefill_s_per_token > 0:
        cost += expected_cost_s(cluster, weights[0], weights[1], state.foresight)
    state.finished[episode_id] = finished
    if episode.num_decisions > 0:  # what it has cost to come to the first one is charged with it
        state.rewards[episode_id] = episode.cost_s - cost
        episode.cost_s = cost


def routing_episodes(
    scenario: Scenario, num_episodes: int, max_requests: int, slots: int | None = None
) -> RoutingEpisodes | FleetRoutingEpisodes:
    """Episodes of a scenario, by the simulator that does it fastest."""
    kind = RoutingEpisodes if scenario.is_plain else FleetRoutingEpisodes
    return kind(scenario, num_episodes, max_requests, slots)
