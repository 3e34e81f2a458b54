"""K routing episodes side by side, all advanced by one native call.

Both forms of the environment are thin views of this; it knows nothing of Gymnasium.
"""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.jit import jit, kernel
from servegym.envs.routing.reward import cost_so_far, expected_wait_s
from servegym.envs.scenario import Scenario
from servegym.envs.scenario_config import require
from servegym.envs.sim.llm.fleet import advance, submit
from servegym.envs.sim.llm.prefix_state import load_contents, shared_block_keys
from servegym.envs.sim.llm.setup import ReplicaSpec, clear, load_requests, new_fleet
from servegym.envs.sim.llm.simulate import Results, refuse_columns
from servegym.envs.sim.llm.state import NOBODY, Fleet
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    REPLICA_FEATURES,
    REQUEST_FEATURES,
    queued_prefill_tokens,
    write_hit_tokens,
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

    def __init__(
        self, scenario: Scenario, num_episodes: int, max_requests: int, slots: int | None = None
    ) -> None:
        scenario.require_plain("servegym/Routing-v0")
        self.scenario = scenario
        self.num_episodes = num_episodes
        self.num_replicas = scenario.num_replicas
        self.max_requests = max_requests
        for key in ("tpot_weight", "throughput_weight", "slo_weight"):
            weight = getattr(scenario.objective, key)
            require(weight == 0, f"scenario.objective.{key}", weight, "0 for routing (only TTFT and latency)")
        charge = scenario.objective.charge_expected_wait
        self._prefill_s_per_token = scenario.prefill_s_per_token if charge else 0.0
        slots = self.num_replicas if slots is None else slots
        if slots < self.num_replicas:
            raise InputError(f"slots = {slots}: must be at least the scenario's {self.num_replicas} replicas")
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
        self.request = np.zeros((num_episodes, REQUEST_FEATURES), np.float32)
        self.replicas = np.zeros((num_episodes, slots, REPLICA_FEATURES), np.float32)
        self.rewards = np.zeros(num_episodes)
        self.finished = np.zeros(num_episodes, np.bool_)

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
        episode = self.episodes[episode_id]
        episode.num_requests = workload.num_requests
        episode.next_request = 0
        episode.now_s = workload.arrival_s[0]
        episode.cost_s = 0.0
        self.finished[episode_id] = False
        _begin(
            self.fleet,
            self.episodes,
            episode_id,
            self.num_replicas,
            self.max_requests,
            self.request[episode_id],
            self.replicas[episode_id],
        )

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
        legal = (actions >= 0) & (actions < self.num_replicas) | self.finished
        if not legal.all():
            episode_id = int(np.argmin(legal))
            raise ValueError(
                f"action {actions[episode_id]} in environment {episode_id}, decision "
                f"{self.episodes[episode_id].next_request}: must be a replica from 0 to "
                f"{self.num_replicas - 1}"
            )
        objective = self.scenario.objective
        _step(
            self.fleet,
            self.episodes,
            actions,
            self.num_replicas,
            self.max_requests,
            objective.ttft_weight,
            objective.latency_weight,
            self._prefill_s_per_token,
            self.request,
            self.replicas,
            self.rewards,
            self.finished,
        )

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


@kernel
def _observe(
    fleet: Fleet,
    episode_id: int,
    episode: np.record,
    gap_s: float,
    num_replicas: int,
    max_requests: int,
    request: np.ndarray,
    replicas: np.ndarray,
) -> None:
    """Writes what the agent sees: `request` (REQUEST_FEATURES,) and `replicas` (slots, REPLICA_FEATURES)."""
    request_id = NOBODY
    if episode.next_request < episode.num_requests:
        request_id = episode_id * max_requests + episode.next_request
        write_request_row(fleet, request_id, gap_s, request)
    else:
        request[:] = 0.0
    for replica in range(num_replicas):
        replica_id = episode_id * num_replicas + replica
        write_replica_row(fleet, replica_id, episode.now_s, replicas[replica])
        write_hit_tokens(fleet, replica_id, request_id, replicas[replica])


@kernel
def _route(
    fleet: Fleet,
    episode_id: int,
    episode: np.record,
    action: int,
    num_replicas: int,
    max_requests: int,
) -> float:
    """Sends the episode's next request to replica `action` and advances the fleet to the one after it.

    Returns the seconds between the two; after the last request the fleet runs until all have finished.
    """
    first_replica = episode_id * num_replicas
    request_id = episode_id * max_requests + episode.next_request
    submit(fleet, first_replica + action, request_id)
    episode.next_request += 1
    gap_s, until_s = 0.0, np.inf
    if episode.next_request < episode.num_requests:
        until_s = fleet.requests[request_id + 1].arrival_s
        gap_s = until_s - episode.now_s
        episode.now_s = until_s
    for replica_id in range(first_replica, first_replica + num_replicas):
        advance(fleet, replica_id, until_s)
    return gap_s


@kernel
def _cost_s(
    fleet: Fleet,
    episode_id: int,
    now_s: float,
    num_replicas: int,
    ttft_weight: float,
    latency_weight: float,
    prefill_s_per_token: float,
) -> float:
    """The cost so far, see reward.py; with expected waits where `prefill_s_per_token` is above 0."""
    ttft_offset_s, latency_offset_s = 0.0, 0.0
    num_before_first_token, num_unfinished = 0, 0
    expected_s = 0.0
    for replica_id in range(episode_id * num_replicas, (episode_id + 1) * num_replicas):
        replica = fleet.replicas[replica_id]
        ttft_offset_s += replica.ttft_offset_s
        latency_offset_s += replica.latency_offset_s
        num_before_first_token += replica.num_before_first_token
        num_unfinished += replica.num_unfinished
        num_joining = replica.batch_sampled
        num_queued = replica.num_waiting + replica.num_prefilling - num_joining
        if prefill_s_per_token > 0 and num_queued + num_joining > 0:
            expected_s += expected_wait_s(
                replica.clock_s - now_s if replica.in_flight else 0.0,
                num_joining,
                num_queued,
                queued_prefill_tokens(replica),
                prefill_s_per_token,
            )
    expected_s *= ttft_weight + latency_weight
    return expected_s + cost_so_far(
        ttft_offset_s,
        num_before_first_token,
        latency_offset_s,
        num_unfinished,
        now_s,
        ttft_weight,
        latency_weight,
    )


@jit
def _begin(
    fleet: Fleet,
    episodes: np.ndarray,
    episode_id: int,
    num_replicas: int,
    max_requests: int,
    request: np.ndarray,
    replicas: np.ndarray,
) -> None:
    """The first observation of an episode."""
    _observe(fleet, episode_id, episodes[episode_id], 0.0, num_replicas, max_requests, request, replicas)


@jit
def _step(
    fleet: Fleet,
    episodes: np.ndarray,
    actions: np.ndarray,
    num_replicas: int,
    max_requests: int,
    ttft_weight: float,
    latency_weight: float,
    prefill_s_per_token: float,
    request: np.ndarray,
    replicas: np.ndarray,
    rewards: np.ndarray,
    finished: np.ndarray,
) -> None:
    """One decision in every episode that is not finished."""
    for episode_id in range(episodes.shape[0]):
        rewards[episode_id] = 0.0
        if finished[episode_id]:
            continue
        episode = episodes[episode_id]
        gap_s = _route(fleet, episode_id, episode, actions[episode_id], num_replicas, max_requests)
        finished[episode_id] = episode.next_request == episode.num_requests
        cost_s = _cost_s(
            fleet,
            episode_id,
            episode.now_s,
            num_replicas,
            ttft_weight,
            latency_weight,
            prefill_s_per_token,
        )
        rewards[episode_id] = episode.cost_s - cost_s
        episode.cost_s = cost_s
        _observe(
            fleet,
            episode_id,
            episode,
            gap_s,
            num_replicas,
            max_requests,
            request[episode_id],
            replicas[episode_id],
        )
