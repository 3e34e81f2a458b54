"""What a fleet is made of and how it is operated, checked before anything runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.rebalancer import Rebalancer
from servegym.envs.workloads import Workload

ROLES = ("mixed", "prefill", "decode", "encode")
"""By number: the position here is what compiled code branches on."""

MIXED, PREFILL, DECODE, ENCODE = range(len(ROLES))


@dataclass(frozen=True)
class Member:
    """A replica of the fleet; one with the role `encode` needs neither engine nor cost.

    Its link sends KV: `link_latency_s` and `blocks * kv_bytes_per_block / link_bytes_per_s` a transfer.
    """

    engine: Engine | None = None
    cost: IterationCost | None = None
    role: str = "mixed"
    link_latency_s: float = 0.0
    link_bytes_per_s: float = math.inf
    kv_bytes_per_block: float = 0.0

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InputError(f"role = {self.role}: must be one of {', '.join(ROLES)}")
        if self.role != "encode" and (self.engine is None or self.cost is None):
            raise InputError(f"role = {self.role}: needs an engine and a cost")
        if self.engine is not None:
            self.engine.refuse_agent()
        if not self.link_bytes_per_s > 0:
            raise InputError(f"link_bytes_per_s = {self.link_bytes_per_s}: must be above 0")
        for key in ("link_latency_s", "kv_bytes_per_block"):
            if not 0 <= getattr(self, key) < math.inf:
                raise InputError(f"{key} = {getattr(self, key)}: must be at least 0 and finite")


@dataclass(frozen=True)
class Failure:
    """A replica is gone from `time_s` to `until_s`."""

    replica: int
    time_s: float
    until_s: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.time_s < math.inf:
            raise InputError(f"time_s = {self.time_s}: must be at least 0 and finite")
        if not self.time_s < self.until_s:
            raise InputError(f"until_s = {self.until_s}: must be after time_s = {self.time_s}")


@dataclass(frozen=True)
class Migration:
    """Running requests move from replica to replica, as `rule` says every `every_s` seconds.

    A request stops for its last KV blocks when these are at most `last_stage_blocks`, or after `max_stages`
    stages; the defaults are Llumnix's (Sun et al., OSDI 2024; its configuration).
    """

    rule: Rebalancer
    every_s: float
    last_stage_blocks: int = 16
    max_stages: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.every_s < math.inf:
            raise InputError(f"migration.every_s = {self.every_s}: must be above 0 and finite")
        for key in ("last_stage_blocks", "max_stages"):
            if getattr(self, key) < 0:
                raise InputError(f"migration.{key} = {getattr(self, key)}: must be at least 0")


@dataclass(frozen=True)
class FleetPlan:
    """The replicas of a fleet and how it is operated; the defaults are the plain fleet.

    scaling: `(time, replicas wanted)`. migration: None for none. role_switch_s: None where roles are fixed.
    Raises `InputError` for what does not go together.
    """

    replicas: Sequence[Member]
    dispatch_latency_s: float = 0.0
    state_delay_s: float = 0.0
    encode_overhead_s: float = 0.0
    encode_s_per_token: float = 0.0
    failures: Sequence[Failure] = ()
    on_failure: str = "reroute"
    scaling: Sequence[tuple[float, int]] = ()
    startup_s: float = 0.0
    role_switch_s: float | None = None
    migration: Migration | None = None

    def __post_init__(self) -> None:
        for key in (
            "dispatch_latency_s",
            "state_delay_s",
            "encode_overhead_s",
            "encode_s_per_token",
            "startup_s",
            "role_switch_s",
        ):
            if getattr(self, key) is not None and not 0 <= getattr(self, key) < math.inf:
                raise InputError(f"{key} = {getattr(self, key)}: must be at least 0 and finite")
        if self.on_failure not in ("reroute", "lost"):
            raise InputError(f"on_failure = {self.on_failure}: must be reroute or lost")
        if self.migration and self.migration.rule.switches_roles and self.role_switch_s is None:
            raise InputError(f"role_switch_s: must be given with rebalancer {self.migration.rule.name}")
        roles = [member.role for member in self.replicas]
        if not {"mixed", "prefill"} & set(roles):
            raise InputError("role: no replica can prefill, one with the role mixed or prefill is needed")
        if "prefill" in roles and not {"mixed", "decode"} & set(roles):
            raise InputError("role: no replica can decode, one with the role decode or mixed is needed")
        if "decode" in roles and "prefill" not in roles:
            raise InputError("role: no replica has prefill, those with decode would serve nobody")
        self._check_engines("prefill" in roles)
        self._check_schedule()

    def _check_engines(self, split: bool) -> None:
        sizes = {m.engine.block_size for m in self.replicas if m.engine and m.engine.prefix_caching}
        if len(sizes) > 1:
            raise InputError(
                f"engine.block_size = {sorted(sizes)}: must be the same for all replicas with prefix_caching"
            )
        sizes = {m.engine.block_size for m in self.replicas if m.engine and m.role != "encode"}
        if self.migration and len(sizes) > 1:
            raise InputError(
                f"engine.block_size = {sorted(sizes)}: must be the same for all replicas with migration"
            )
        for number, member in enumerate(self.replicas):
            if member.role == "encode" or member.engine is None:
                continue
            if (split or self.migration) and member.engine.scheduler != "vllm_v1":
                raise InputError(
                    f"replicas[{number}].engine.scheduler = {member.engine.scheduler}: prefill and decode "
                    "roles and migration need vllm_v1"
                )

    def _check_schedule(self) -> None:
        count = len(self.replicas)
        for number, failure in enumerate(self.failures):
            if not 0 <= failure.replica < count:
                raise InputError(
                    f"failures[{number}].replica = {failure.replica}: must be from 0 to {count - 1}"
                )
        for number, (time_s, wanted) in enumerate(self.scaling):
            if not 0 <= time_s < math.inf:
                raise InputError(f"scaling[{number}].time_s = {time_s}: must be at least 0 and finite")
            if not 0 <= wanted <= count:
                raise InputError(f"scaling[{number}].replicas = {wanted}: must be from 0 to {count}")

    def fits(self, workload: Workload) -> np.ndarray:
        """Bool (R, N): where each request fits when it is alone; on `prefill` replicas up to its first token.

        Where roles change all of it must fit on all of them.

        Raises InputError naming the first request that has no replica for a stage it may have to go through.
        """
        fits = self._fits(workload)
        served = self._served(workload, fits)
        if not served.all():
            i = int(np.argmin(served))
            largest = max(m.engine.num_kv_blocks * m.engine.block_size for m in self.replicas if m.engine)
            raise InputError(
                f"{workload.name_of_request(i)} with {workload.prompt_tokens[i]} prompt and "
                f"{workload.output_tokens[i]} output tokens fits into no replica it could be sent to; the "
                f"largest has num_kv_blocks for {largest} tokens"
            )
        return fits

    def served(self, workload: Workload) -> np.ndarray:
        """Bool (N,): which requests have a replica for every stage they may have to go through."""
        return self._served(workload, self._fits(workload))

    def _fits(self, workload: Workload) -> np.ndarray:
        first_token = replace(
            workload, output_tokens=np.ones(workload.num_requests, np.int32), max_output_tokens=None
        )
        fits = np.ones((len(self.replicas), workload.num_requests), np.bool_)
        for row, member in zip(fits, self.replicas, strict=True):
            if member.engine is not None and member.role != "encode":
                in_part = member.role == "prefill" and self.role_switch_s is None
                row[:] = member.engine.fits(first_token if in_part else workload)
        return fits

    def _served(self, workload: Workload, fits: np.ndarray) -> np.ndarray:
        if self.role_switch_s is not None:
            return np.asarray(fits.all(axis=0))
        roles = np.array([member.role for member in self.replicas])
        decoders = roles == ("decode" if "decode" in roles else "mixed")
        handed_over = fits[roles == "prefill"].any(axis=0) & (workload.output_tokens > 1)
        served: np.ndarray = fits[(roles == "mixed") | (roles == "prefill")].any(axis=0)
        served &= ~handed_over | fits[decoders].any(axis=0)
        return served
