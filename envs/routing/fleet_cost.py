"""The cost of an episode on any fleet, by its open requests: reward.py says what it adds up."""

from typing import Any

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.routing.reward import Foresight, expected_wait_at, time_to_decode_s
from servegym.envs.sim.llm.cluster.places import has_ended
from servegym.envs.sim.llm.cluster.plan import DECODE, ENCODE
from servegym.envs.sim.llm.cluster.state import FUTURE, OVER, Cluster
from servegym.envs.sim.llm.state import NOBODY

OPEN_REQUESTS: list[tuple[str, Any]] = [
    ("num_open", np.int64),
    ("num_arrived", np.int64),  # of those that arrive by themselves
    ("closed_s", np.float64),  # cost of the requests that have ended
]
"""Fields of an episode. Open are requests that have arrived or follow a finished one, and have not ended."""


@routine
def cost_s(
    cluster: Cluster, episode: np.record, open_requests: np.ndarray, ttft_weight: float, latency_weight: float
) -> float:
    """The cost in seconds up to now, of a fleet whose replicas are all up to date.

    open_requests: int32 (N,), of which the first `num_open` are in use.
    """
    while episode.num_arrived < cluster.control[0].next_open:
        _open(episode, open_requests, cluster.open_loop[episode.num_arrived])
        episode.num_arrived += 1
    cost = 0.0
    place = 0
    while place < episode.num_open:
        request_id = open_requests[place]
        ended = has_ended(cluster, request_id)
        waited = _cost_of(cluster, request_id, ended, ttft_weight, latency_weight)
        if not ended:
            cost += waited
            place += 1
            continue
        episode.closed_s += waited
        last: int = episode.num_open - 1
        open_requests[place] = open_requests[last]
        episode.num_open = last
        if cluster.journeys[request_id].place != OVER:
            other = cluster.journeys[request_id].first_child
            while other != NOBODY:
                _open(episode, open_requests, other)
                other = cluster.journeys[other].next_sibling
    total: float = episode.closed_s + cost
    return total


@kernel
def _open(episode: np.record, open_requests: np.ndarray, request_id: int) -> None:
    open_requests[episode.num_open] = request_id
    episode.num_open += 1


@kernel
def _cost_of(
    cluster: Cluster, request_id: int, ended: bool, ttft_weight: float, latency_weight: float
) -> float:
    """What one open request has cost so far."""
    request = cluster.fleet.requests[request_id]
    journey = cluster.journeys[request_id]
    if journey.place == FUTURE:
        return 0.0
    end_s = cluster.control[0].now_s
    if ended:
        end_s = journey.over_s if journey.place == OVER else request.finish_s
    first_s = end_s if np.isnan(request.first_token_s) else request.first_token_s
    ttft_s = first_s - request.arrival_s
    latency_s = end_s - request.arrival_s
    cost: float = ttft_weight * ttft_s + latency_weight * latency_s
    return cost


@routine
def expected_cost_s(
    cluster: Cluster, ttft_weight: float, latency_weight: float, foresight: Foresight
) -> float:
    """What requests on replicas will still cost, about: waiting for first tokens there, and decoding."""
    fleet = cluster.fleet
    waiting_s, decoding_s = 0.0, 0.0
    for replica_id in range(cluster.members.shape[0]):
        role = cluster.members[replica_id].role
        if role == ENCODE:
            continue
        replica = fleet.replicas[replica_id]
        speed = fleet.speed[replica.group]
        if role != DECODE:
            s_per_token = foresight.prefill_s_per_token / speed
            waiting_s += expected_wait_at(replica, cluster.control[0].now_s, s_per_token)
        if latency_weight > 0:
            decoding_s += time_to_decode_s(fleet, replica_id, speed, foresight)
    return (ttft_weight + latency_weight) * waiting_s + latency_weight * decoding_s
