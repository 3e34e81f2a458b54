"""The schema of scenarios of one batching server: conf/scenario/*.yaml with `dynamic_batching_schema`."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class DynamicBatchingConfig:
    """A batch of `b` requests takes `alpha_s b + beta_s` seconds and `alpha_j b + beta_j` joules.

    The other fields are those of `DynamicBatchingScenario`.
    """

    name: str = MISSING
    rate_rps: float = MISSING
    alpha_s: float = MISSING
    beta_s: float = MISSING
    alpha_j: float = 0.0
    beta_j: float = 0.0
    max_batch: int = MISSING
    min_batch: int = 1
    response_weight: float = 1.0
    power_weight: float = 0.0
    requests: int = 1024
