"""One server that works in batches, the traffic it gets, and what its operator minimises."""

import math
from dataclasses import dataclass

import numpy as np

from servegym.costmodels.batch import LinearBatchLatency
from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.config import DynamicBatchingConfig


@dataclass(frozen=True)
class DynamicBatchingScenario:
    """Requests arrive at random at one server, which runs batches of `min_batch` to `max_batch` of them.

    What is minimised is, on average, `response_weight * mean response in s + power_weight * power in W`
    [Xu et al., "SMDP-Based Dynamic Batching", arXiv 2301.12865: their w1 and w2]. InputError, naming the
    field, for what cannot be.
    """

    name: str
    rate_rps: float
    """Requests a second, Poisson."""
    latency_s: tuple[float, ...]
    """Seconds of a batch of 1, 2, ... `max_batch` requests; must not fall."""
    energy_j: tuple[float, ...] = ()
    """Joules of such a batch; none: 0."""
    min_batch: int = 1
    response_weight: float = 1.0
    power_weight: float = 0.0
    requests: int = 1024
    """Of an episode."""

    def __post_init__(self) -> None:
        if not 0 < self.rate_rps < math.inf:
            self._refuse("rate_rps", self.rate_rps, "positive and finite")
        if not self.latency_s:
            self._refuse("latency_s", self.latency_s, "the seconds of batches of 1, 2, ... requests")
        for size, (seconds, before) in enumerate(zip(self.latency_s, (0.0, *self.latency_s)), 1):  # noqa: B905
            if not 0 < seconds < math.inf:
                self._refuse(f"latency_s of a batch of {size}", seconds, "positive and finite")
            if seconds < before:
                self._refuse(
                    f"latency_s of a batch of {size}", seconds, f"at least that of {size - 1}: {before}"
                )
        if len(self.energy_j) not in (0, self.max_batch):
            self._refuse("energy_j", f"{len(self.energy_j)} numbers", f"none or {self.max_batch}, one a size")
        for size, joules in enumerate(self.energy_j, 1):
            if not 0 <= joules < math.inf:
                self._refuse(f"energy_j of a batch of {size}", joules, "at least 0 and finite")
        if not 1 <= self.min_batch <= self.max_batch:
            self._refuse("min_batch", self.min_batch, f"from 1 to {self.max_batch}, the largest batch")
        for key in ("response_weight", "power_weight"):
            if not 0 <= getattr(self, key) < math.inf:
                self._refuse(key, getattr(self, key), "at least 0 and finite")
        if self.requests < 1:
            self._refuse("requests", self.requests, "at least 1")

    @property
    def max_batch(self) -> int:
        """The most requests of a batch."""
        return len(self.latency_s)

    @property
    def joules(self) -> tuple[float, ...]:
        """`energy_j`, written out."""
        return self.energy_j or (0.0,) * self.max_batch

    @classmethod
    def of_config(cls, config: DynamicBatchingConfig) -> "DynamicBatchingScenario":
        """From its YAML, checked."""
        if config.max_batch < 1:
            raise InputError(f"scenario.max_batch = {config.max_batch}: must be at least 1")
        sizes = np.arange(1, config.max_batch + 1)
        law = LinearBatchLatency(config.alpha_s, config.beta_s)
        return cls(
            name=config.name,
            rate_rps=config.rate_rps,
            latency_s=tuple(law.seconds(sizes).tolist()),
            energy_j=tuple((config.alpha_j * sizes + config.beta_j).tolist()),
            min_batch=config.min_batch,
            response_weight=config.response_weight,
            power_weight=config.power_weight,
            requests=config.requests,
        )

    def _refuse(self, key: str, value: object, allowed: str) -> None:
        raise InputError(f"scenario.{key} = {value}: must be {allowed}")


def load_dynamic_batching(name: str, overrides: tuple[str, ...] = ()) -> DynamicBatchingScenario:
    """The scenario `conf/scenario/<name>.yaml`, with Hydra overrides such as `scenario.rate_rps=500`.

    InputError for an unknown name and for a scenario of another kind, listing those that there are.
    """
    from servegym.envs.scenario.compose import compose_scenario_of

    return DynamicBatchingScenario.of_config(compose_scenario_of(DynamicBatchingConfig, name, overrides))
