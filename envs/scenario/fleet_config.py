"""The schema of `scenario.fleet`: which replicas there are, and how the fleet is operated.

`fleet_plan.py` makes the plan of it and checks the ranges.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class PoolConfig:
    """Equal replicas of a fleet; what is null is as the fleet has it."""

    replicas: int = MISSING  # at least 1
    gpu: str | None = None
    tensor_parallel: int | None = None
    memory_fraction: float | None = None
    role: str | None = None
    link_bytes_per_s: float | None = None
    link_latency_s: float | None = None
    engine: dict[str, Any] = field(default_factory=dict)  # keys of scenario.engine that differ here


@dataclass
class FailureConfig:
    """A replica is gone from `time_s` to `until_s`, with all it holds."""

    replica: int = MISSING  # by number, from 0
    time_s: float = MISSING  # at least 0
    until_s: float = math.inf  # after time_s; inf: it stays away


@dataclass
class ScalingConfig:
    """From `time_s` on so many replicas are wanted, those of the lowest numbers."""

    time_s: float = MISSING  # at least 0
    replicas: int = MISSING  # from 0 to all


@dataclass
class FleetConfig:
    """One model on replicas: equal ones, or pools that differ. Defaults are the plain fleet.

    docs/simulator.md, "The fleet", says what each setting does.
    """

    replicas: int | None = None  # from 1 to 4,096; null: the pools say it
    gpu: str = MISSING  # preset in costmodels/specs.py
    model: str = MISSING  # preset in costmodels/specs.py
    tensor_parallel: int = 1  # GPUs per replica
    memory_fraction: float = 0.9  # of GPU memory for weights and KV cache, in (0, 1]
    role: str = "mixed"  # mixed, prefill, decode, encode
    link_bytes_per_s: float = math.inf  # of a replica, to send KV to others; above 0
    link_latency_s: float = 0.0  # of each transfer, at least 0
    pools: list[PoolConfig] = field(default_factory=list)  # replicas are numbered in this order
    dispatch_latency_s: float = 0.0  # from router to replica, at least 0
    state_delay_s: float = 0.0  # age of what the router sees, at least 0
    encode_overhead_s: float = 0.0  # of encoding a request's images, at least 0
    encode_s_per_token: float = 0.0  # and for each of its image tokens, at least 0
    failures: list[FailureConfig] = field(default_factory=list)
    on_failure: str = "reroute"  # what becomes of a failed replica's requests: reroute, lost
    scaling: list[ScalingConfig] = field(default_factory=list)
    startup_s: float = 0.0  # until a replica that is added takes requests, at least 0
    role_switch_s: float | None = None  # that a replica is gone to change its role; null: roles are fixed

    @property
    def num_replicas(self) -> int:
        """Of all pools, or `replicas`."""
        return sum(pool.replicas for pool in self.pools) if self.pools else self.replicas or 0
