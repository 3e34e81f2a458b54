"""The decision process of a batching server, with finitely many states.

A state is the number of requests that wait when a decision is due. In state s
- waiting, action 0, takes 1 / lambda seconds on average and leads to s + 1;
- a batch of b takes l(b) seconds and leads to s - b + A with A ~ Poisson(lambda l(b)).
Meanwhile every request in the system costs w1 / lambda a second (Little's law), on average for
`s l(b) + lambda l(b)^2 / 2` seconds in all, and a batch costs w2 e(b). Where s would exceed the longest
queue S it becomes S, and the transition is charged with working off the rest (tail.py).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from servegym.agents.smdp.arrivals import arrivals
from servegym.agents.smdp.tail import Tail
from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario

Floats = npt.NDArray[np.float64]

MOST_TRANSITIONS = 50_000_000
"""Of a model: about 4 GB while it is solved (ours)."""


@dataclass(frozen=True)
class Model:
    """A actions in each of the states 0 to S.

    actions: int64 (A,), 0 and the sizes of batches. seconds, cost: float64 (A, S + 1), expected until the
    next decision; cost is inf where an action is not legal. transitions: probabilities, sparse
    (A * (S + 1), S + 1), actions one after the other; rows of illegal ones are empty.
    """

    actions: npt.NDArray[np.int64]
    seconds: Floats
    cost: Floats
    transitions: Any
    tail: Tail

    @classmethod
    def of(cls, scenario: DynamicBatchingScenario, max_queue: int) -> "Model":
        """With the states 0 to `max_queue`, at least `max_batch`; InputError for what has no optimum."""
        require_solvable(scenario)
        if max_queue < scenario.max_batch:
            raise InputError(f"max_queue = {max_queue}: must be at least max_batch, {scenario.max_batch}")
        rate, tail = scenario.rate_rps, Tail.of(scenario)
        second_cost = scenario.response_weight / rate
        actions = np.array([0, *range(scenario.min_batch, scenario.max_batch + 1)])
        states = np.arange(max_queue + 1)
        seconds = np.ones((len(actions), len(states)))
        cost = np.full(seconds.shape, np.inf)
        blocks = []
        for row, size in enumerate(actions):
            if size == 0:
                start, duration_s, joules = states, 1 / rate, 0.0
                counts, probabilities = np.array([1]), np.array([1.0])
                meanwhile_s = 0.0
            else:
                start, duration_s = states[size:], scenario.latency_s[size - 1]
                joules = scenario.joules[size - 1]
                counts, probabilities = arrivals(rate * duration_s)
                meanwhile_s = rate * duration_s**2 / 2
            after = (start - size)[:, None] + counts
            excess = np.maximum(after - max_queue, 0).astype(np.float64)
            seconds[row, start] = duration_s + tail.seconds * (excess @ probabilities)
            cost[row, start] = (
                second_cost * (start * duration_s + meanwhile_s)
                + scenario.power_weight * joules
                + tail.cost(max_queue, excess) @ probabilities
            )
            where = (np.repeat(start, len(counts)), np.minimum(after, max_queue).ravel())
            entries = np.tile(probabilities, len(start))
            blocks.append(sparse.coo_array((entries, where), (len(states), len(states))))
        return cls(actions, seconds, cost, sparse.vstack(blocks, format="csr"), tail)


def most_queue(scenario: DynamicBatchingScenario) -> int:
    """The largest `max_queue` for which a model has at most MOST_TRANSITIONS."""
    durations_s = scenario.latency_s[scenario.min_batch - 1 :]
    of_state = 1 + sum(len(arrivals(scenario.rate_rps * each)[0]) for each in durations_s)
    return MOST_TRANSITIONS // of_state - 1


def require_solvable(scenario: DynamicBatchingScenario) -> None:
    """InputError where the queue cannot but grow, or where it costs nothing to let it."""
    sizes = np.arange(scenario.min_batch, scenario.max_batch + 1)
    largest = float((sizes / np.array(scenario.latency_s)[sizes - 1]).max())
    if not scenario.rate_rps < largest:
        raise InputError(
            f"scenario.rate_rps = {scenario.rate_rps:g}: must be below {largest:g}, the most that the server "
            "can do, else the queue grows for ever"
        )
    if scenario.response_weight == 0:
        raise InputError("scenario.response_weight = 0: must be above 0, else it is best never to serve")
