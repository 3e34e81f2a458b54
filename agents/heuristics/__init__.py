"""Published routers, one per file, under their own names and parameters."""

from collections.abc import Callable

from servegym.agents.heuristics.jsq import jsq
from servegym.agents.heuristics.least_outstanding_tokens import least_outstanding_tokens
from servegym.agents.heuristics.lowest_kv_use import lowest_kv_use
from servegym.agents.heuristics.policy import HeuristicPolicy
from servegym.agents.heuristics.power_of_two import power_of_two
from servegym.agents.heuristics.random import random
from servegym.agents.heuristics.round_robin import round_robin
from servegym.agents.heuristics.sal import sal
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.router import Router

ROUTERS: dict[str, Callable[..., Router]] = {
    make.__name__: make
    for make in (random, round_robin, jsq, least_outstanding_tokens, power_of_two, lowest_kv_use, sal)
}
"""What makes each router, by name; its arguments are the router's published parameters."""


def make_router(name: str, **parameters: object) -> Router:
    """The router `name` with these parameters; InputError lists the known ones."""
    if name not in ROUTERS:
        raise InputError(f"router = {name}: must be one of {', '.join(ROUTERS)}")
    try:
        return ROUTERS[name](**parameters)
    except TypeError as error:
        raise InputError(f"router {name}: {error}") from error


__all__ = ["ROUTERS", "HeuristicPolicy", "make_router"]
