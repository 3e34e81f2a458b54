"""Small fleets and managers for tests."""

from collections.abc import Callable

import numpy as np

from servegym.costmodels.elastic.cost import linear_elastic_cost
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.costmodels.iterations.cost import IterationCost
from servegym.envs.sim.elastic.fleet import ElasticFleet
from servegym.envs.sim.elastic.manager import Manager
from servegym.envs.sim.elastic.state import FleetState
from servegym.envs.workloads.workload import Workload

OVERHEAD_S, PER_TOKEN_S, PER_KV_TOKEN_S = 0.01, 1e-4, 1e-6


def iteration() -> IterationCost:
    return linear_iteration_cost(
        max_num_batched_tokens=512,
        max_num_seqs=512,
        overhead_s=OVERHEAD_S,
        per_token_s=PER_TOKEN_S,
        per_kv_token_s=PER_KV_TOKEN_S,
    )


def fleet(instances: int = 4, kv_tokens: int = 1000, per_node: int = 4, **changes: float) -> ElasticFleet:
    cost = linear_elastic_cost(instances, iteration=iteration(), **changes)
    return ElasticFleet(instances, kv_tokens, per_node, cost)


def workload(*requests: tuple[float, int, int]) -> Workload:
    """Of (arrival, prompt, output)."""
    arrival_s, prompt, output = zip(*requests, strict=True)
    return Workload("test", np.array(arrival_s), np.array(prompt), np.array(output))


def script(*steps: Callable[[FleetState], None]) -> Manager:
    """Does the first step when it is called first, and so on; then nothing."""
    left = list(steps)

    def manage(state: FleetState) -> None:
        if left:
            left.pop(0)(state)

    return Manager("script", manage)
