"""The best of a family of simple policies: the one batch size, or limit, that costs least."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from servegym.agents.smdp.evaluate import evaluate
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario

Sizes = npt.NDArray[np.int64]

Family = Callable[[DynamicBatchingScenario, int], Sizes]
"""Tables by a parameter, such as `static` and `control_limit` (policy.py)."""

SPARE = 1.01
"""Only tables that can serve so many times what arrives are considered (ours)."""


def cheapest(scenario: DynamicBatchingScenario, family: Family) -> tuple[int, Sizes] | None:
    """Parameter, from `min_batch` to `max_batch`, and table of least cost (evaluate.py).

    None where no table is fast enough.
    """
    best, best_cost = None, np.inf
    for parameter in range(scenario.min_batch, scenario.max_batch + 1):
        sizes = family(scenario, parameter)
        last = int(sizes[-1])  # of long queues
        if last / scenario.latency_s[last - 1] > SPARE * scenario.rate_rps:
            cost = evaluate(scenario, sizes).cost
            if cost < best_cost:
                best, best_cost = (parameter, sizes), cost
    return best
