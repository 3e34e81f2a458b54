"""K routing episodes side by side, all advanced by one native call.

Both forms of the environment are thin views of this; it knows nothing of Gymnasium.
"""

import numpy as np

from servegym.costmodels.jit import jit
from servegym.envs.routing.reward import cost_so_far
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.fleet import advance, submit
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.sim.llm.state import clear, load_requests, new_fleet
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    REPLICA_FEATURES,
    REQUEST_FEATURES,
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


class RoutingEpisodes:
    """K independent episodes of one scenario.

    max_requests: the longest episode there will be. slots: rows of the observation, at least the
    scenario's replicas. Observations are written in place into `request` (K, REQUEST_FEATURES) and
    `replicas` (K, slots, REPLICA_FEATURES), float32; `rewards` float64 (K,), `finished` bool (K,).
    """

    def __init__(self, scenario: Scenario, num_episodes: int, max_requests: int, slots: int | None = None) -> None:
        self.scenario = scenario
        self.num_episodes = num_episodes
        self.num_replicas = scenario.num_replicas
        self.max_requests = max_requests
        slots = self.num_replicas if slots is None else slots
        self.fleet = new_fleet(
            num_episodes * self.num_replicas, num_episodes * max_requests, scenario.engine, scenario.cost
        )
        self.episodes = np.zeros(num_episodes, EPISODE).view(np.recarray)
        self.request = np.zeros((num_episodes, REQUEST_FEATURES), np.float32)
        self.replicas = np.zeros((num_episodes, slots, REPLICA_FEATURES), np.float32)
        self.rewards = np.zeros(num_episodes)
        self.finished = np.zeros(num_episodes, np.bool_)

    def begin(self, episode_id: int, workload: Workload) -> None:
        """Starts episode `episode_id` afresh with a workload and writes its first observation."""
        engine = self.scenario.engine
        workload.check_fits(engine.num_kv_blocks, engine.block_size)
        clear(self.fleet, slice(episode_id * self.num_replicas, (episode_id + 1) * self.num_replicas))
        load_requests(
            self.fleet,
            self._request_ids(episode_id, workload.num_requests),
            workload.arrival_s,
            workload.prompt_tokens,
            workload.output_tokens,
            workload.predicted_output_tokens,
        )
        episode = self.episodes[episode_id]
        episode.num_requests = workload.num_requests
        episode.next_request = 0
        episode.now_s = workload.arrival_s[0]
        episode.cost_s = 0.0
        self.finished[episode_id] = False
        _observe(self.fleet, self.episodes, episode_id, 0.0, self.num_replicas, self.max_requests,
                 self.request, self.replicas)  # fmt: skip

    def step(self, actions: np.ndarray) -> None:
        """Routes one request in every episode that has one left, and writes what follows.

        actions: int64 (K,), replica per episode; ValueError names the first that is not legal.
        """
        legal = (actions >= 0) & (actions < self.num_replicas) | self.finished
        if not legal.all():
            episode_id = int(np.argmin(legal))
            raise ValueError(
                f"action {actions[episode_id]} in environment {episode_id}, decision "
                f"{self.episodes[episode_id].next_request}: must be a replica from 0 to {self.num_replicas - 1}"
            )
        objective = self.scenario.objective
        _step(self.fleet, self.episodes, actions, self.num_replicas, self.max_requests,
              objective.ttft_weight, objective.latency_weight,
              self.request, self.replicas, self.rewards, self.finished)  # fmt: skip

    def legal_actions(self) -> np.ndarray:
        """bool (K, slots): True where a replica may be chosen."""
        return self.replicas[:, :, AVAILABLE] > 0

    def results(self, episode_id: int) -> Results:
        """What happened to the requests of an episode so far."""
        num_requests = int(self.episodes[episode_id].num_requests)
        return Results.of(
            self.fleet, self._request_ids(episode_id, num_requests), episode_id * self.num_replicas
        )

    def _request_ids(self, episode_id: int, num_requests: int) -> slice:
        first = episode_id * self.max_requests
        return slice(first, first + num_requests)


@jit
def _observe(fleet, episodes, episode_id, gap_s, num_replicas, max_requests, request, replicas):
    episode = episodes[episode_id]
    for replica in range(num_replicas):
        write_replica_row(fleet, episode_id * num_replicas + replica, episode.now_s, replicas[episode_id, replica])
    if episode.next_request < episode.num_requests:
        request_id = episode_id * max_requests + episode.next_request
        write_request_row(fleet, request_id, gap_s, request[episode_id])
    else:
        request[episode_id] = 0.0


@jit
def _step(
    fleet,
    episodes,
    actions,
    num_replicas,
    max_requests,
    ttft_weight,
    latency_weight,
    request,
    replicas,
    rewards,
    finished,
):
    for episode_id in range(episodes.shape[0]):
        rewards[episode_id] = 0.0
        if finished[episode_id]:
            continue
        episode = episodes[episode_id]
        first_replica = episode_id * num_replicas
        request_id = episode_id * max_requests + episode.next_request
        submit(fleet, first_replica + actions[episode_id], request_id)
        episode.next_request += 1
        gap_s = 0.0
        if episode.next_request < episode.num_requests:
            arrival_s = fleet.requests[request_id + 1].arrival_s
            gap_s = arrival_s - episode.now_s
            episode.now_s = arrival_s
            until_s = arrival_s
        else:
            finished[episode_id] = True
            until_s = np.inf
        ttft_offset_s, latency_offset_s = 0.0, 0.0
        num_before_first_token, num_unfinished = 0, 0
        for replica_id in range(first_replica, first_replica + num_replicas):
            advance(fleet, replica_id, until_s)
            replica = fleet.replicas[replica_id]
            ttft_offset_s += replica.ttft_offset_s
            latency_offset_s += replica.latency_offset_s
            num_before_first_token += replica.num_before_first_token
            num_unfinished += replica.num_unfinished
        cost_s = cost_so_far(
            ttft_offset_s,
            num_before_first_token,
            latency_offset_s,
            num_unfinished,
            episode.now_s,
            ttft_weight,
            latency_weight,
        )
        rewards[episode_id] = episode.cost_s - cost_s
        episode.cost_s = cost_s
        _observe(fleet, episodes, episode_id, gap_s, num_replicas, max_requests, request, replicas)
