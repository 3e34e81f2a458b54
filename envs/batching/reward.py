"""The reward of scheduling: minus the increase of what the objective adds up, see envs/routing/reward.py.

An episode's cost is, over its requests,

      ttft_weight * sum of TTFT + latency_weight * sum of latency
    + tpot_weight * sum of (last token - first token)                              (seconds)
    - throughput_weight * requests finished
    - slo_weight * requests finished with TTFT <= slo_ttft_s and TPOT <= slo_tpot_s      (goodput)
    + energy_weight * joules of the fleet from the first arrival to the last token

The first two lines are counted as time passes: a request has been waiting for its first token, or has been
decoding, until now. The next two are counted when a request finishes; one of a single output token has
no TPOT, so only its TTFT counts. Requests that keep both limits, over time, are the goodput (Zhong et al.,
DistServe, OSDI 2024): over a fixed set of requests their number. Joules are counted when an iteration starts,
and idle power as time passes (docs/simulator.md, "Energy"). The undiscounted return is minus the cost.

>>> # one request came at 0 (offsets 0), has its first token at 1 and is decoding at 3: 2 s of decoding
>>> waiting_cost(1.0, 0, 0.0, 1, 3.0, ttft_weight=0.0, latency_weight=0.0, tpot_weight=1.0)
2.0
>>> attains(0.0, 1.0, 3.0, 5, slo_ttft_s=1.0, slo_tpot_s=0.5)
True
>>> attains(0.0, 1.0, 3.0, 4, slo_ttft_s=1.0, slo_tpot_s=0.5)
False
"""

import numpy as np

from servegym.costmodels.native.jit import kernel
from servegym.envs.routing.reward import cost_so_far, expected_wait_s
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.energy import energy_j
from servegym.envs.sim.llm.state import ENDED, Fleet
from servegym.envs.sim.llm.view import queued_prefill_tokens

OBJECTIVE = np.dtype(
    [
        (name, np.float64)
        for name in (
            "ttft_weight",
            "latency_weight",
            "tpot_weight",
            "throughput_weight",
            "slo_weight",
            "energy_weight",
            "slo_ttft_s",
            "slo_tpot_s",
            "prefill_s_per_token",  # 0: expected waits are not charged
        )
    ]
)
"""What compiled code reads of a scenario's objective."""


def objective_record(scenario: Scenario) -> np.ndarray:
    """OBJECTIVE, shape (1,)."""
    record = np.zeros(1, OBJECTIVE).view(np.recarray)
    for name in OBJECTIVE.names or ():
        record[name] = getattr(scenario.objective, name, 0.0)
    if scenario.objective.charge_expected_wait:
        record["prefill_s_per_token"] = scenario.prefill_s_per_token
    return record


@kernel
def waiting_cost(
    ttft_offset_s: float,
    num_before_first_token: int,
    latency_offset_s: float,
    num_unfinished: int,
    now_s: float,
    ttft_weight: float,
    latency_weight: float,
    tpot_weight: float,
) -> float:
    """Cost in seconds up to `now_s`, arguments as in routing: decoding is what latency has beyond TTFT."""
    cost: float = cost_so_far(
        ttft_offset_s,
        num_before_first_token,
        latency_offset_s,
        num_unfinished,
        now_s,
        ttft_weight - tpot_weight,
        latency_weight + tpot_weight,
    )
    return cost


@kernel
def attains(
    arrival_s: float,
    first_token_s: float,
    finish_s: float,
    output_tokens: int,
    slo_ttft_s: float,
    slo_tpot_s: float,
) -> bool:
    """Whether a finished request kept both limits."""
    in_time: bool = first_token_s - arrival_s <= slo_ttft_s
    return in_time and finish_s - first_token_s <= slo_tpot_s * (output_tokens - 1)


@kernel
def count_attained(
    fleet: Fleet, open_ids: np.ndarray, num_open: int, slo_ttft_s: float, slo_tpot_s: float
) -> int:
    """Drops the finished ones from the first `num_open` of `open_ids` (int32); how many of them attain."""
    attained, kept = 0, 0
    for i in range(num_open):
        request = fleet.requests[open_ids[i]]
        if request.state == ENDED:
            attained += attains(
                request.arrival_s,
                request.first_token_s,
                request.finish_s,
                request.output_tokens,
                slo_ttft_s,
                slo_tpot_s,
            )
        else:
            open_ids[kept] = open_ids[i]
            kept += 1
    return attained


@kernel
def episode_cost(
    fleet: Fleet,
    first: int,
    count: int,
    start_s: float,
    now_s: float,
    num_arrived: int,
    num_attained: int,
    objective: np.record,
) -> float:
    """The cost from `start_s` to `now_s` of an episode on `count` replicas from `first` on.

    Expected waits included. num_arrived: requests sent to a replica so far; num_attained: of these, finished
    within both limits.
    """
    ttft_offset_s, latency_offset_s, expected_s = 0.0, 0.0, 0.0
    num_before_first_token, num_unfinished = 0, 0
    for replica_id in range(first, first + count):
        replica = fleet.replicas[replica_id]
        ttft_offset_s += replica.ttft_offset_s
        latency_offset_s += replica.latency_offset_s
        num_before_first_token += replica.num_before_first_token
        num_unfinished += replica.num_unfinished
        num_joining = replica.batch_sampled if replica.in_flight else 0
        num_queued = replica.num_waiting + replica.num_prefilling - num_joining
        if objective.prefill_s_per_token > 0 and num_queued + num_joining > 0:
            expected_s += expected_wait_s(
                replica.clock_s - now_s if replica.in_flight else 0.0,
                num_joining,
                num_queued,
                queued_prefill_tokens(replica),
                objective.prefill_s_per_token,
            )
    cost: float = waiting_cost(
        ttft_offset_s,
        num_before_first_token,
        latency_offset_s,
        num_unfinished,
        now_s,
        objective.ttft_weight,
        objective.latency_weight,
        objective.tpot_weight,
    )
    cost += expected_s * (objective.ttft_weight + objective.latency_weight)
    cost -= objective.throughput_weight * (num_arrived - num_unfinished)
    cost -= objective.slo_weight * num_attained
    if objective.energy_weight > 0:
        cost += objective.energy_weight * energy_j(fleet, first, count, start_s, now_s)
    return cost


@kernel
def cost_since(
    fleet: Fleet,
    first: int,
    count: int,
    episode: np.record,
    open_ids: np.ndarray,
    now_s: float,
    num_arrived: int,
    objective: np.record,
) -> float:
    """Brings an episode's cost up to `now_s`; returns its increase.

    episode: record with `start_s`, `num_open`, `num_attained` and `cost`; open_ids: int32, of its requests
    that have arrived, the first `num_open` of which have not been counted as finished.
    """
    num_unfinished = 0
    for replica_id in range(first, first + count):
        num_unfinished += fleet.replicas[replica_id].num_unfinished
    if objective.slo_weight > 0 and episode.num_open > num_unfinished:
        episode.num_attained += count_attained(
            fleet, open_ids, episode.num_open, objective.slo_ttft_s, objective.slo_tpot_s
        )
        episode.num_open = num_unfinished
    start_s, attained = episode.start_s, episode.num_attained
    cost = episode_cost(fleet, first, count, start_s, now_s, num_arrived, attained, objective)
    increase: float = cost - episode.cost
    episode.cost = cost
    return increase
