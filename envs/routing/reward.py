"""The reward of routing: minus the increase of what the objective adds up.

With weights `ttft_weight` and `latency_weight`, an episode's cost is

    ttft_weight * sum of TTFT + latency_weight * sum of latency        (seconds)

over its requests. While a request waits for its first token its TTFT so far is `now - arrival`, and
likewise its latency while it is unfinished, so the cost is defined at any instant and only grows. The
reward of a decision is minus its growth until the next decision; the undiscounted return is minus the cost.

Requests may end early, or begin anew (docs/simulator.md, "The fleet"). Whatever happens, each request that
has arrived costs, with its end when it finished, was cancelled or was lost,

    TTFT = (first token, or else its end) - arrival        latency = end - arrival

so what ends early has cost the time that its client was there, and `info["episode_metrics"]`, whose means are
over finished requests, does not add up to the cost. A request routed again after a failure keeps its arrival;
a first token that was lost with its replica is none, and its TTFT grows again by all the time since. A
follow-up costs nothing before it arrives, or where it never does. What comes before an episode's
first decision is charged with it. Where decoding has replicas of its own TTFT is over before they are
chosen: only `latency_weight` tells an agent to choose them well.

>>> before = cost_so_far(0.0, 0, 0.0, 0, now_s=1.0, ttft_weight=1.0, latency_weight=0.0)
>>> # two requests came at 1.0 and 1.25 (offset -2.25) and both wait at 1.5: 0.5 s + 0.25 s so far
>>> after = cost_so_far(-2.25, 2, -2.25, 2, now_s=1.5, ttft_weight=1.0, latency_weight=0.0)
>>> before - after
-0.75

A wait that begins with a decision is paid for over hundreds of later ones, and a discount would forgive
most of it. So the objective may charge expected waits when they begin (`charge_expected_wait`): the cost then
includes, at any instant, the wait still expected of the requests without a first token; and, as far as
latency is weighed, the time that requests will still decode, from the tokens that they really have to come,
which the reward may know though the agent does not (`time_to_decode_s`). This is
shaping by a potential (Ng, Harada and Russell, ICML 1999) which is 0 when nobody is there, at the start and
at the end of an episode, so the undiscounted return stays the same. In a fleet with roles only replicas
that prefill are asked, each at its own speed, and not who is at the router or on the way.

>>> # nothing in flight, 2 requests wait with 1000 and 500 tokens at 1 ms a token: about (1.0 + 1.5) s
>>> expected_wait_s(0.0, 0, 2, 1500, 0.001)
2.25
"""

from typing import NamedTuple

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.scenario.config import ObjectiveConfig, require
from servegym.envs.scenario.scenario import Scenario
from servegym.envs.sim.llm.state import Fleet
from servegym.envs.sim.llm.view import queued_prefill_tokens


class Foresight(NamedTuple):
    """How fast a replica with SPEED 1 works, for what is charged when it begins; all 0: nothing is.

    The last three are those of its `LinearClock`.
    """

    prefill_s_per_token: float
    overhead_s: float
    s_per_decode: float
    s_per_context_token: float


def foresight(scenario: Scenario) -> Foresight:
    """What `scenario.objective.charge_expected_wait` asks for."""
    if not scenario.objective.charge_expected_wait:
        return Foresight(0.0, 0.0, 0.0, 0.0)
    clock = scenario.clock
    return Foresight(
        float(scenario.prefill_s_per_token), clock.overhead_s, clock.s_per_decode, clock.s_per_context_token
    )


def check_objective(objective: ObjectiveConfig) -> None:
    """InputError where it weighs what routing does not add up."""
    for key in ("tpot_weight", "throughput_weight", "slo_weight", "energy_weight"):
        weight = getattr(objective, key)
        require(weight == 0, f"scenario.objective.{key}", weight, "0 for routing (only TTFT and latency)")
    require(not objective.measure_energy, "scenario.objective.measure_energy", True, "false for routing")


@kernel
def cost_so_far(
    ttft_offset_s: float,
    num_before_first_token: int,
    latency_offset_s: float,
    num_unfinished: int,
    now_s: float,
    ttft_weight: float,
    latency_weight: float,
) -> float:
    """Cost in seconds up to `now_s`.

    ttft_offset_s: sum over requests of first-token time (where there is one) minus arrival time;
    num_before_first_token: requests without a first token; likewise latency with finish times.
    """
    ttft_s = ttft_offset_s + num_before_first_token * now_s
    latency_s = latency_offset_s + num_unfinished * now_s
    return ttft_weight * ttft_s + latency_weight * latency_s


@kernel
def expected_wait_s(
    iteration_left_s: float, num_joining: int, num_queued: int, queued_tokens: int, prefill_s_per_token: float
) -> float:
    """Seconds that the requests of a replica without a first token have still to wait, about, in total.

    The iteration in flight ends in `iteration_left_s` and completes `num_joining` prefills. `num_queued`
    requests then share `queued_tokens` of prefill, first come first served: taken as equal, they wait for
    1, 2, ... of `num_queued` parts.
    """
    in_flight_s = (num_joining + num_queued) * iteration_left_s
    return in_flight_s + 0.5 * (num_queued + 1) * queued_tokens * prefill_s_per_token


@kernel
def expected_wait_at(replica: np.record, now_s: float, prefill_s_per_token: float) -> float:
    """`expected_wait_s` of a replica, which is up to date."""
    num_joining = replica.batch_sampled
    num_queued = replica.num_waiting + replica.num_prefilling - num_joining
    if num_queued + num_joining == 0:
        return 0.0
    return expected_wait_s(
        replica.clock_s - now_s if replica.in_flight else 0.0,
        num_joining,
        num_queued,
        queued_prefill_tokens(replica),
        prefill_s_per_token,
    )


@routine
def time_to_decode_s(fleet: Fleet, replica_id: int, speed: float, foresight: Foresight) -> float:
    """Seconds that the requests of a replica will still decode, about, in total.

    The tokens that each has really to come, at the speed of an iteration of all who are there now, with their
    context: that of who waits counts as it will be when its prefill is over.
    """
    replica = fleet.replicas[replica_id]
    if replica.num_unfinished == 0:
        return 0.0
    decodes = replica.num_decodes
    tokens, context = 0, replica.context_offset + decodes * replica.iteration
    for place in range(decodes):
        tokens += max(0, (fleet.due[replica_id, place] >> 32) - replica.iteration)
    request_id = replica.waiting_first
    for _ in range(replica.num_waiting):
        tokens += fleet.requests[request_id].output_tokens - fleet.requests[request_id].generated
        context += fleet.requests[request_id].prompt_tokens
        request_id = fleet.requests[request_id].next
    request_id = replica.prefilling_first
    for _ in range(replica.num_prefilling):
        tokens += fleet.requests[request_id].output_tokens - fleet.requests[request_id].generated
        context += fleet.requests[request_id].prompt_tokens
        request_id = fleet.requests[request_id].next_prefilling
    decodes += replica.num_waiting + replica.num_prefilling
    iteration_s = (
        foresight.overhead_s + foresight.s_per_decode * decodes + foresight.s_per_context_token * context
    )
    seconds: float = tokens * iteration_s / speed
    return seconds
