"""What a fleet is made of, and how it is operated ("The fleet")."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from servegym.costmodels.errors import InputError
from tests.reference.engine import Engine

ROLES = ("mixed", "prefill", "decode", "encode")


@dataclass(frozen=True)
class ReplicaSpec:
    """One replica; those with the role `encode` need neither engine nor cost. The link is for sending KV."""

    engine: Engine | None = None
    cost: Any = None
    role: str = "mixed"
    link_latency_s: float = 0.0
    link_bytes_per_s: float = math.inf
    kv_bytes_per_block: float = 0.0

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InputError(f"role: {self.role!r}, must be one of {', '.join(ROLES)}")
        if self.role != "encode" and (self.engine is None or self.cost is None):
            raise InputError(f"replica with role {self.role}: needs an engine and a cost")


@dataclass(frozen=True)
class Failure:
    """A replica is gone from `time_s` to `until_s`."""

    replica: int
    time_s: float
    until_s: float = math.inf


@dataclass(frozen=True)
class FleetSettings:
    """How a fleet is operated; the defaults are the plain fleet.

    `scaling` is a plan of `(time, replicas wanted)`. `rebalance(now, fleet)` gives the migrations to start,
    as `(request, number of the target)`; each is started before the next one is asked for.
    """

    dispatch_latency_s: float = 0.0
    state_delay_s: float = 0.0
    encode_overhead_s: float = 0.0
    encode_s_per_token: float = 0.0
    failures: Sequence[Failure] = ()
    on_failure: str = "reroute"
    scaling: Sequence[tuple[float, int]] = ()
    startup_s: float = 0.0
    role_switch_s: float | None = None
    rebalance: Callable[[float, Any], Iterable[tuple[Any, int]]] | None = None
    rebalance_s: float = math.inf
    last_stage_blocks: int = 16
    max_stages: int = 3

    def check(self, replicas: Sequence[ReplicaSpec]) -> None:
        """Raises `InputError` for settings that do not suit these replicas."""
        if not any(spec.role in ("mixed", "prefill") for spec in replicas):
            raise InputError("roles: no replica can prefill, at least one mixed or prefill is needed")
        if self.on_failure not in ("reroute", "lost"):
            raise InputError(f"on_failure: {self.on_failure!r}, must be reroute or lost")
        split = any(spec.role in ("prefill", "decode") for spec in replicas)
        for number, spec in enumerate(replicas):
            if (split or self.rebalance) and spec.engine and spec.engine.scheduler != "vllm_v1":
                raise InputError(
                    f"replica {number}: scheduler {spec.engine.scheduler}, "
                    "prefill and decode roles and migration need vllm_v1"
                )
        for failure in self.failures:
            if not 0 <= failure.replica < len(replicas):
                raise InputError(f"failures: replica {failure.replica}, not below {len(replicas)}")
        for time_s, wanted in self.scaling:
            if not 0 <= wanted <= len(replicas):
                raise InputError(f"scaling: {wanted} replicas at {time_s} s, not in 0..{len(replicas)}")
