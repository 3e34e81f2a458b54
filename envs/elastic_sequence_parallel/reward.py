"""The reward of elastic sequence parallelism: minus the increase of what an episode costs.

An episode's cost is, with the four weights of the scenario's objective,

    total * sum of latency / (p + o) + input * sum of TTFT / p + output * sum of TPOT + late * late requests

over its requests of `p` prompt and `o` output tokens, in seconds a token. The sums grow while a request is in
the system (envs/sim/elastic/accrual.py), so the undiscounted return is minus the cost. With weights of 1 over
the lines of LoongServe's Fig. 10, a request that keeps each of them exactly costs 3.

>>> # 2 s pass with rates of 1/500, 1/400, 1/99 a token, and one request turns out to be late
>>> before, after = np.array([0.0, 0.0, 0.0, 0.0]), np.array([2 / 500, 2 / 400, 2 / 99, 1.0])
>>> weights = np.array([10.0, 8.0, 2.0, 0.5])
>>> round(cost_of(before, weights) - cost_of(after, weights), 4)
-0.6204
"""

import numpy as np

from servegym.costmodels.native.jit import kernel


@kernel
def cost_of(costs: np.ndarray, weights: np.ndarray) -> float:
    """From `FleetState.costs` and the weights of the objective, both float64 (4,)."""
    total = 0.0
    for kind in range(costs.size):
        total += weights[kind] * costs[kind]
    return total
