"""From the configuration of a scenario to the plan of its fleet. What is out of range is named by its key."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields
from itertools import pairwise
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import kv_capacity_blocks
from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.specs import GPUS, MODELS
from servegym.envs.scenario.clocks import CLOCKS
from servegym.envs.scenario.config import EngineConfig, ScenarioConfig, require
from servegym.envs.scenario.fleet_config import FleetConfig, PoolConfig
from servegym.envs.sim.llm.cluster.plan import ROLES, Failure, FleetPlan, Member, Migration
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.ranking import Ranking

Made = TypeVar("Made")

MOST_REPLICAS = 4096
_LATER = (
    "dispatch_latency_s",
    "state_delay_s",
    "encode_overhead_s",
    "encode_s_per_token",
    "startup_s",
    "role_switch_s",
)
_KEY = "scenario.fleet"


def fleet_plan(
    config: ScenarioConfig, migration: Migration | None = None, ranking: Ranking | None = None
) -> FleetPlan:
    """The replicas of a scenario, pool after pool, and how they are operated; their engines use a ranking.

    Raises InputError in one line that begins with the full key of what is out of range, unknown, or does not
    go together.
    """
    fleet = config.fleet
    kind = config.costmodel.kind
    require(kind in CLOCKS, "scenario.costmodel.kind", kind, "one of " + ", ".join(CLOCKS))
    require(fleet.model in MODELS, f"{_KEY}.model", fleet.model, "one of " + ", ".join(sorted(MODELS)))
    require(
        fleet.replicas is None or not fleet.pools,
        f"{_KEY}.replicas",
        fleet.replicas,
        "null where there are pools, which say how many",
    )
    allowed = f"from 1 to {MOST_REPLICAS}"
    pools = fleet.pools or [PoolConfig(replicas=fleet.replicas or 0)]
    costs: dict[Any, IterationCost] = {}
    members: list[Member] = []
    pool_of: list[int] = []
    for number, pool in enumerate(pools):
        where = f"{_KEY}.pools[{number}]" if fleet.pools else _KEY
        count = pool.replicas if fleet.pools else fleet.replicas
        shown = "null" if count is None else count
        require(0 < (count or 0) <= MOST_REPLICAS, f"{where}.replicas", shown, allowed)
        members += [_Pool(config, pool, where, ranking).member(costs)] * pool.replicas
        pool_of += [number] * pool.replicas
    require(len(members) <= MOST_REPLICAS, f"{_KEY}.pools", f"{len(members)} replicas", allowed)
    failures = [
        _named(f"{_KEY}.failures[{i}].", Failure, each.replica, each.time_s, each.until_s)
        for i, each in enumerate(fleet.failures)
    ]
    _check_overlaps(failures)
    try:
        return FleetPlan(
            members,
            **{key: getattr(fleet, key) for key in _LATER},
            failures=failures,
            on_failure=fleet.on_failure,
            scaling=[(each.time_s, each.replicas) for each in fleet.scaling],
            migration=migration,
        )
    except InputError as error:
        raise InputError(_with_key(str(error), pool_of if fleet.pools else None)) from None


class _Pool:
    """A pool with what it takes from the fleet."""

    def __init__(self, config: ScenarioConfig, pool: PoolConfig, where: str, ranking: Ranking | None) -> None:
        self.config = config
        self.pool = pool
        self.where = where  # its key
        self.ranking = ranking

    def member(self, costs: dict[Any, IterationCost]) -> Member:
        """One of its replicas; equal ones share one of `costs`."""
        role = self._get("role", lambda value: value in ROLES, "one of " + ", ".join(ROLES))
        bytes_per_s = self._get("link_bytes_per_s", lambda value: value > 0, "above 0")
        latency_s = self._get("link_latency_s", lambda value: 0 <= value < math.inf, "at least 0 and finite")
        model = MODELS[self.config.fleet.model]
        if role == "encode":
            require(not self.pool.engine, f"{self.where}.engine", self.pool.engine, "empty with role encode")
            return Member(
                role=role,
                link_latency_s=latency_s,
                link_bytes_per_s=bytes_per_s,
                kv_bytes_per_block=float(model.kv_bytes_per_token * self.config.engine.block_size),
            )
        gpu = GPUS[self._get("gpu", lambda value: value in GPUS, "one of " + ", ".join(sorted(GPUS)))]
        tensor_parallel = self._get("tensor_parallel", lambda value: value >= 1, "at least 1")
        memory_fraction = self._get("memory_fraction", lambda value: 0 < value <= 1, "in (0, 1]")
        settings, engine_key = self._engine_settings()
        if settings.num_kv_blocks is None:
            require(settings.block_size >= 1, f"{engine_key}.block_size", settings.block_size, "at least 1")
            settings.num_kv_blocks = _named(
                f"{self.where}: ",
                kv_capacity_blocks,
                model,
                gpu,
                tensor_parallel=tensor_parallel,
                memory_fraction=memory_fraction,
                block_size=settings.block_size,
            )
        require(
            settings.order in ("fcfs", "priority"), f"{engine_key}.order", settings.order, "fcfs or priority"
        )
        for scheduler in ("ranked", "multi_bin"):
            require(
                settings.scheduler != scheduler,
                f"{engine_key}.scheduler",
                scheduler,
                "another: it comes with a ranking (scheduler=... of servegym simulate)",
            )
        values = {field.name: getattr(settings, field.name) for field in fields(settings)}
        engine = _named(engine_key.removesuffix("engine"), Engine, **values)
        if self.ranking is not None:
            engine = _named(engine_key.removesuffix("engine"), self.ranking.applied_to, engine)
        kind = (gpu.name, tensor_parallel, astuple(engine))
        if kind not in costs:
            cost = CLOCKS[self.config.costmodel.kind](model, gpu, tensor_parallel, engine)
            costs[kind] = cost._replace(overhead_s=self.config.costmodel.cpu_overhead_s)
        return _named(
            engine_key.removesuffix("engine"),
            Member,
            engine,
            costs[kind],
            role,
            link_latency_s=latency_s,
            link_bytes_per_s=bytes_per_s,
            kv_bytes_per_block=float(model.kv_bytes_per_token * engine.block_size),
        )

    def _get(self, key: str, is_allowed: Callable[[Any], bool], allowed: str) -> Any:
        """The pool's value of a key or else the fleet's, checked under the name of the one that it is."""
        value = getattr(self.pool, key)
        where = self.where
        if value is None:
            where, value = _KEY, getattr(self.config.fleet, key)
        require(is_allowed(value), f"{where}.{key}", value, allowed)
        return value

    def _engine_settings(self) -> tuple[EngineConfig, str]:
        """A copy of the scenario's engine with the pool's own values, and the key that they stand under."""
        settings, overrides = self.config.engine, self.pool.engine
        known = [field.name for field in fields(settings)]
        where = f"{self.where}.engine" if overrides else "scenario.engine"
        for key in overrides:
            if key not in known:
                raise InputError(f"{where}.{key}: no such key, must be one of {', '.join(known)}")
        try:
            merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(settings), overrides))
        except OmegaConfBaseException as error:
            key = str(getattr(error, "full_key", ""))
            raise InputError(f"{where}.{key} = {overrides.get(key)}: {str(error).splitlines()[0]}") from error
        assert isinstance(merged, EngineConfig)
        return merged, where


def _named(prefix: str, make: Callable[..., Made], *arguments: Any, **named: Any) -> Made:
    """What `make` returns; `prefix` goes before what it refuses."""
    try:
        return make(*arguments, **named)
    except InputError as error:
        raise InputError(f"{prefix}{error}") from None


def _with_key(message: str, pool_of: Sequence[int] | None) -> str:
    """What a plan refuses, under the names of the scenario: replicas become the pools that they are of."""
    found = re.match(r"replicas\[(\d+)\]\.", message)
    if found is None:
        return f"scenario.{message}" if message.startswith("engine.") else f"{_KEY}.{message}"
    rest = message[found.end() :]
    return f"scenario.{rest}" if pool_of is None else f"{_KEY}.pools[{pool_of[int(found[1])]}].{rest}"


def _check_overlaps(failures: Sequence[Failure]) -> None:
    order = sorted(range(len(failures)), key=lambda i: (failures[i].replica, failures[i].time_s))
    for earlier, later in pairwise(order):
        before, after = failures[earlier], failures[later]
        require(
            before.replica != after.replica or before.until_s <= after.time_s,
            f"{_KEY}.failures[{later}].time_s",
            after.time_s,
            f"at least {before.until_s}, when the failure [{earlier}] of replica {after.replica} ends",
        )


def first_extra(fleet: FleetConfig, plan: FleetPlan) -> str | None:
    """The first key that makes a fleet more than equal replicas that are always there; None without any."""
    first = plan.replicas[0]
    alike = all(each.engine == first.engine and each.cost is first.cost for each in plan.replicas)
    if not alike or any(each.role != "mixed" for each in plan.replicas):
        return f"{_KEY}.pools"
    given = (
        key for key in ("dispatch_latency_s", "state_delay_s", "failures", "scaling") if getattr(fleet, key)
    )
    return next((f"{_KEY}.{key}" for key in given), None)
