"""All bounds of a workload on a plain fleet of equal replicas."""

from dataclasses import dataclass

import numpy as np

from servegym.agents.bounds.alone import least_alone
from servegym.agents.bounds.batch_prices import Steps, price_steps
from servegym.agents.bounds.batch_times import LeastTimes, least_times
from servegym.agents.bounds.on_time import most_on_time
from servegym.agents.bounds.pooled_queue import least_mean_flow_time
from servegym.agents.bounds.priced_time import least_total_latency
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import Floats, IterationCost
from servegym.envs.metrics import SloLimits
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import FLEET_COLUMNS, refuse_columns
from servegym.envs.workloads import Workload

_WEIGHTS = 16


@dataclass(frozen=True)
class MeanBound:
    """Lower bounds on the mean of a time over all requests, seconds; each holds by itself.

    alone: every request as if alone in the fleet (`least_alone`). pooled: the fleet as one server that
    batches perfectly and serves the shortest first (`least_total_flow_time`). priced: small batches against
    the capacity of the fleet (`least_total_latency`).
    """

    alone: float
    pooled: float
    priced: float

    @property
    def best(self) -> float:
        """The greatest of them."""
        return max(self.alone, self.pooled, self.priced)


@dataclass(frozen=True)
class ClairvoyantBounds:
    """What no policy beats: no router with no scheduler, even if it knows all requests in advance.

    makespan_s: at least this from the first arrival to the last token. on_time: at most so many requests
    meet both limits. load: the share of the fleet's time that the work takes at least, over the time of
    arrivals; above 1 the queue must grow.
    """

    ttft_s: MeanBound
    latency_s: MeanBound
    makespan_s: float
    on_time: int
    load: float

    @property
    def goodput_rps(self) -> float:
        """At most so many requests a second meet both limits, over the makespan."""
        return self.on_time / self.makespan_s


def clairvoyant_bounds(
    workload: Workload, engine: Engine, cost: IterationCost, num_replicas: int, limits: SloLimits
) -> ClairvoyantBounds:
    """Bounds for `num_replicas` equal replicas on which requests stay from arrival to end.

    They hold for any scheduler that keeps the engine's limits: the tokens and requests of a batch and the KV
    cache. Of the scheduler's own rules nothing is used; `watermark`, whole prompts and the like only make a
    policy worse. They hold to rounding, about 1e-12 relative. Raises `InputError` without requests, for
    engines whose requests may skip tokens of their prompts (prefix caching, `restart_cuts_prompt`), and for
    sessions, cancellation and images.
    """
    refuse_columns(workload, FLEET_COLUMNS, "clairvoyant_bounds")
    for key in ("prefix_caching", "restart_cuts_prompt"):
        if getattr(engine, key):
            raise InputError(f"engine.{key} = true: must be false for bounds, which count every prompt token")
    if workload.num_requests == 0:
        raise InputError(f"workload {workload.name!r}: has no requests, bounds are of 1 or more")
    times = least_times(cost, engine)
    alone = least_alone(workload, times)
    weights = np.append(0.0, np.geomspace(0.5, 4.0 * engine.max_num_seqs, _WEIGHTS))
    ttft = _Paid(workload, times, weights, with_decodes=False)
    latency = _Paid(workload, times, weights, with_decodes=True)
    seconds = workload.duration_s
    to_come_s = latency.work_s[::-1].cumsum()[::-1]  # work that arrives at the same time or later
    ends_s = np.maximum(alone.latency_s, to_come_s / num_replicas)
    return ClairvoyantBounds(
        ttft_s=ttft.mean_bound(workload, alone.first_token_s, num_replicas),
        latency_s=latency.mean_bound(workload, alone.latency_s, num_replicas),
        makespan_s=float((workload.arrival_s + ends_s).max() - workload.arrival_s[0]),
        on_time=most_on_time(
            workload, limits, alone, latency.work_s, weights[1:], latency.prices_s[1:], num_replicas
        ),
        load=float(to_come_s[0] / num_replicas / seconds) if seconds > 0 else float("inf"),
    )


class _Paid:
    """What every request costs the fleet: work alone, and at each weight against the time of its members."""

    def __init__(self, workload: Workload, times: LeastTimes, weights: Floats, *, with_decodes: bool) -> None:
        steps = Steps.of(workload, times, with_decodes=with_decodes)
        (work,) = price_steps(times, steps, 0.0, [1.0])
        paid = [
            each.prefill_s(workload) + (each.decode_s(workload) if with_decodes else 0.0)
            for each in (work, *price_steps(times, steps, 1.0, list(weights)))
        ]
        self.work_s, self.weights, self.prices_s = paid[0], weights, np.array(paid[1:])

    def mean_bound(self, workload: Workload, alone_s: Floats, num_replicas: int) -> MeanBound:
        """Of the time from arrival to the end of what was paid for."""
        queue_end_s = float(workload.arrival_s[0] + self.work_s.sum() / num_replicas)
        total_s = least_total_latency(
            workload.arrival_s, alone_s, self.weights, self.prices_s, num_replicas, queue_end_s
        )
        return MeanBound(
            alone=float(alone_s.mean()),
            pooled=least_mean_flow_time(workload.arrival_s, self.work_s, float(num_replicas)),
            priced=total_s / workload.num_requests,
        )
