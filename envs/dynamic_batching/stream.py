"""Which arrivals come next: the sequence of episodes that a seed stands for."""

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario

Arrivals = npt.NDArray[np.float64]


class ArrivalStream:
    """Episodes of a scenario: Poisson arrivals, or always the same ones, if they are given.

    Episode n of stream s is drawn from child n of `SeedSequence(s)`. arrivals_s: (N,) ascending, N >= 1, else
    InputError.
    """

    def __init__(self, scenario: DynamicBatchingScenario, arrivals_s: npt.ArrayLike | None = None) -> None:
        self.scenario = scenario
        self._given = None if arrivals_s is None else _checked(arrivals_s)
        self.max_requests = scenario.requests if self._given is None else len(self._given)
        self.restart(None)

    def restart(self, seed: int | None) -> None:
        """Back to the first episode of stream `seed`; None: a stream nobody has seen."""
        self._seed = np.random.SeedSequence(seed)

    def next_workload(self) -> Arrivals:
        """Arrival times of the next episode, seconds, (N,)."""
        if self._given is not None:
            return self._given
        return poisson_arrivals(self.scenario, self._seed.spawn(1)[0])


def poisson_arrivals(scenario: DynamicBatchingScenario, seed: np.random.SeedSequence) -> Arrivals:
    """Arrival times of an episode, seconds, (requests,)."""
    gaps_s = np.random.default_rng(seed).exponential(1 / scenario.rate_rps, scenario.requests)
    return np.cumsum(gaps_s)


def _checked(arrivals_s: npt.ArrayLike) -> Arrivals:
    times = np.array(arrivals_s, np.float64)
    if times.ndim != 1 or len(times) == 0:
        raise InputError(f"arrivals_s: has shape {times.shape}, must be (N,) with at least one arrival")
    if not np.isfinite(times).all():
        raise InputError(f"arrivals_s: has {times[~np.isfinite(times)][0]}, must be finite")
    falls = np.flatnonzero(np.diff(times) < 0)
    if len(falls):
        raise InputError(f"arrivals_s: {times[falls[0] + 1]} comes after {times[falls[0]]}, must ascend")
    return times
