"""What queues cost that are longer than a table of states: the abstract cost of the tail.

Let batches of B requests (B has the largest rate, `B / l(B)`, of all allowed) be served one after another as
long as the queue is long. Then what a queue of s costs more than another (its relative value) is quadratic,

    h(s) = a s^2 + (c - g t) s + constant,
    a = w1 / lambda * l / (2 d),   t = l / d,   c = (w1 l^2 / 2 + w2 e + a (lambda l + d^2)) / d

with l, e of B, d = B - lambda l (how much a batch shortens the queue on average) and g the average cost:
put it into h(s) = cost of a batch - g l + E h(s - B + arrivals). So a queue of S + k may be taken for one
of S that has cost `a ((S + k)^2 - S^2) + c k` and `t k` seconds more: those of working k requests off.

Xu et al. (arXiv 2301.12865) lump the states beyond S as well, into one that costs an "abstract cost" in
addition, a number to be chosen. Charging every transition with what follows from the model is our reading of
what it stands for; with it S can be about twice `max_batch` (docs/dynamic_batching.md has figures).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario

Floats = npt.NDArray[np.float64]

EQUAL = 1e-12  # relative: rates that differ by rounding alone


@dataclass(frozen=True)
class Tail:
    """The quadratic above: its coefficients `a`, `c` and `t`, and the batch B that it stands for."""

    batch: int
    square: float
    linear: float
    seconds: float

    @classmethod
    def of(cls, scenario: DynamicBatchingScenario) -> "Tail":
        """Of a server that can keep up with its traffic. Of sizes of equal rate the one that costs least."""
        sizes = np.arange(scenario.min_batch, scenario.max_batch + 1)
        rates = sizes / np.array(scenario.latency_s)[sizes - 1]
        fastest = sizes[rates >= rates.max() * (1 - EQUAL)]
        return min((cls._of_batch(scenario, int(size)) for size in fastest), key=lambda tail: tail.linear)

    @classmethod
    def _of_batch(cls, scenario: DynamicBatchingScenario, batch: int) -> "Tail":
        seconds, joules = scenario.latency_s[batch - 1], scenario.joules[batch - 1]
        mean = scenario.rate_rps * seconds
        drain = batch - mean
        second_cost = scenario.response_weight / scenario.rate_rps
        square = second_cost * seconds / (2 * drain)
        one_batch = scenario.response_weight * seconds**2 / 2 + scenario.power_weight * joules
        linear = (one_batch + square * (mean + drain**2)) / drain
        return cls(batch, square, linear, seconds / drain)

    def cost(self, longest: int, excess: Floats) -> Floats:
        """What queues of `longest + excess` cost more than one of `longest`, but for g times `seconds`."""
        return self.square * excess * (2 * longest + excess) + self.linear * excess

    def values(self, longest: int, excess: Floats, average_cost: float) -> Floats:
        """`h(longest + excess) - h(longest)`."""
        return self.cost(longest, excess) - average_cost * self.seconds * excess
