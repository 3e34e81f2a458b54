"""Prefill and decode goodput of one replica, each phase by itself.

The first half of DistServe's placement (Zhong et al., OSDI 2024, section 4.1): where the phases run apart,
each is simulated apart, against its own limit.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from servegym.agents.heuristics import make_router
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.metrics import SloLimits
from servegym.envs.sim.llm.cluster.plan import FleetPlan, Member
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.goodput import Demand, Goodput, find_goodput

_AT_ONCE_S = 1e-9  # of an iteration that takes no time worth speaking of
_BOUNDLESS_BLOCKS = 2**20


class Search(NamedTuple):
    """How goodputs are searched: with which seeds, for which share of the requests, and from which rate."""

    seeds: Sequence[int]
    share: float
    guess: float


class PhaseGoodputs(NamedTuple):
    """Requests/s that one replica serves within the limit of each phase, mean over the seeds."""

    prefill_rps: float
    decode_rps: float


def phase_goodputs(member: Member, demand: Demand, search: Search) -> PhaseGoodputs:
    """Of a replica like `member`, of which its role is not looked at."""
    return PhaseGoodputs(_prefill(member, demand, search), _decode(member, demand, search))


def fleet_goodput(plan: FleetPlan, router: Router, demand: Demand, search: Search) -> Goodput:
    """Of a whole fleet under a router, both limits at once."""

    def serve(workload: Workload, seed: int) -> Results:
        return simulate_fleet(workload, router, plan, seed=seed)

    seeds, share, guess = search
    return find_goodput(demand.attainment(serve), guess=guess, seeds=seeds, share=share)


def _prefill(member: Member, demand: Demand, search: Search) -> float:
    """Against the limit of TTFT: a replica whose requests are done with their first token."""

    def first_tokens(seed: int) -> Workload:
        workload = demand.workload(seed)
        ones = np.ones(workload.num_requests, np.int32)
        return replace(workload, output_tokens=ones, max_output_tokens=None)

    only = Demand(first_tokens, lambda workload: SloLimits(demand.limits(workload).ttft_s, np.inf))
    plan = FleetPlan([replace(member, role="mixed")])
    return float(fleet_goodput(plan, make_router("round_robin"), only, search).rates.mean())


def _decode(member: Member, demand: Demand, search: Search) -> float:
    """Against the limit of TPOT: a replica to which requests come with a prefill that took no time."""
    engine = member.engine
    assert engine is not None  # no encode replica
    boundless = replace(engine, num_kv_blocks=_BOUNDLESS_BLOCKS)
    at_once = linear_iteration_cost(
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        overhead_s=_AT_ONCE_S,
    )
    plan = FleetPlan([Member(boundless, at_once, "prefill"), replace(member, role="decode")])
    only = Demand(demand.workload, lambda workload: SloLimits(np.inf, demand.limits(workload).tpot_s))
    return float(fleet_goodput(plan, make_router("round_robin"), only, search).rates.mean())
