"""Published routers, one per file, under their own names and parameters."""

from collections.abc import Callable

from servegym.agents.heuristics.consistent_hashing import consistent_hashing
from servegym.agents.heuristics.distserve import distserve
from servegym.agents.heuristics.epd_role_switching import epd_role_switching
from servegym.agents.heuristics.jsq import jsq
from servegym.agents.heuristics.least_outstanding_tokens import least_outstanding_tokens
from servegym.agents.heuristics.llm_d import llm_d
from servegym.agents.heuristics.llumnix import llumnix_rebalancer
from servegym.agents.heuristics.llumnix_dispatch import llumnix_dispatch
from servegym.agents.heuristics.lowest_kv_use import lowest_kv_use
from servegym.agents.heuristics.marginal_latency import marginal_latency
from servegym.agents.heuristics.max_capacity import max_capacity
from servegym.agents.heuristics.min_min import min_min
from servegym.agents.heuristics.mooncake import mooncake
from servegym.agents.heuristics.policy import HeuristicPolicy
from servegym.agents.heuristics.power_of_two import power_of_two
from servegym.agents.heuristics.preble import preble
from servegym.agents.heuristics.predicted_ttft import predicted_ttft
from servegym.agents.heuristics.prefix_cache_aware import prefix_cache_aware
from servegym.agents.heuristics.random import random
from servegym.agents.heuristics.round_robin import round_robin
from servegym.agents.heuristics.sal import sal
from servegym.agents.heuristics.session_affinity import session_affinity
from servegym.agents.heuristics.splitwise import splitwise
from servegym.agents.heuristics.weighted_round_robin import weighted_round_robin
from servegym.agents.heuristics.workload_mixing import workload_mixing
from servegym.agents.published import make_published
from servegym.envs.sim.llm.rebalancer import Rebalancer
from servegym.envs.sim.llm.router import Router

ROUTERS: dict[str, Callable[..., Router]] = {
    make.__name__: make
    for make in (
        random,
        round_robin,
        weighted_round_robin,
        consistent_hashing,
        session_affinity,
        jsq,
        least_outstanding_tokens,
        power_of_two,
        lowest_kv_use,
        max_capacity,
        sal,
        predicted_ttft,
        min_min,
        marginal_latency,
        workload_mixing,
        llumnix_dispatch,
        splitwise,
        distserve,
        prefix_cache_aware,
        llm_d,
        mooncake,
        preble,
    )
}
"""What makes each router, by name; its arguments are the router's published parameters."""


def make_router(name: str, **parameters: object) -> Router:
    """The router `name` with these parameters; InputError lists the known ones."""
    return make_published("router", ROUTERS, name, parameters)


REBALANCERS: dict[str, Callable[..., Rebalancer]] = {
    "epd_role_switching": epd_role_switching,
    "llumnix": llumnix_rebalancer,
}
"""What makes each rebalancer, by name."""


def make_rebalancer(name: str, **parameters: object) -> Rebalancer:
    """The rebalancer `name` with these parameters; InputError lists the known ones."""
    return make_published("rebalancer", REBALANCERS, name, parameters)


__all__ = ["REBALANCERS", "ROUTERS", "HeuristicPolicy", "make_rebalancer", "make_router"]
