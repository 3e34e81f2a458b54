"""One JSON object says how a policy serves: what every adapter is given, directly or as a file."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from servegym.agents.serving.artifact.load import ExportedPolicy, load_artifact
from servegym.agents.serving.artifact.signature import read_key
from servegym.agents.serving.contracts import EnginePolicy, RouterPolicy
from servegym.agents.serving.engine.engine import Engine
from servegym.agents.serving.engine.learned_scheduler import LearnedScheduler
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.learned_router import LearnedRouter, setting_row
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.round_robin import RoundRobin
from servegym.agents.serving.routing.router import Observer, Router
from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError

MAX_CONFIG_BYTES = 1 << 20

PLAIN = {each.name: each for each in (LeastLoaded, RoundRobin)}
"""Heuristics that need nothing but NumPy."""


@dataclass(frozen=True)
class PolicyConfig:
    """Which policy: an exported one (`artifact`: a folder or zoo:NAME, `backend`), or a published one.

    key: a file; the artifact must then have the signature of this key. heuristic: a name of `servegym list`,
    with its `parameters`; needs numba, but for those of PLAIN.
    """

    artifact: str | None = None
    backend: str = "auto"
    key: str | None = None
    heuristic: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.artifact is None) == (self.heuristic is None):
            raise InputError("policy: must have an artifact or a heuristic, one of them")
        if self.key is not None and self.artifact is None:
            raise InputError(f"policy.key = {self.key}: a heuristic has no signature; must be null")

    def signature_key(self) -> bytes | None:
        """What the key file holds; None where no signature is demanded. InputError as of `read_key`."""
        return None if self.key is None else read_key(Path(self.key))


@dataclass(frozen=True)
class FleetConfig:
    """What a router assumes of replicas: see FleetView. block_size: tokens; kv_blocks: blocks. InputError
    for what is not above 0 (dispatch_latency_s: at least 0)."""

    block_size: int = 16
    kv_blocks: int = 30_000
    report_max_age_s: float = 1.0
    dispatch_latency_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("block_size", "kv_blocks", "report_max_age_s"):
            value = getattr(self, name)
            if not value > 0:
                raise InputError(f"fleet.{name} = {value}: must be > 0")
        if not self.dispatch_latency_s >= 0:
            raise InputError(f"fleet.dispatch_latency_s = {self.dispatch_latency_s}: must be >= 0")


@dataclass(frozen=True)
class ServingConfig:
    """How a policy serves. InputError for values out of range.

    policy: which one. fleet: what a router assumes of its replicas. setting: of SETTING_FEATURES by name, for
    an exported router. deadline_s: how long it may think; None: as long as it likes. share, shadow,
    needs_reports: see Router. decision_log: a file to write decisions to. metrics: whether to count for
    Prometheus. time_scale: seconds on the wall that a second of the setting and of reports lasts, above 1
    before emulated workers that are slowed down.
    """

    policy: PolicyConfig
    setting: dict[str, float] = field(default_factory=dict)
    fleet: FleetConfig = FleetConfig()
    deadline_s: float | None = 0.005
    share: float = 1.0
    shadow: bool = False
    needs_reports: bool = False
    decision_log: str | None = None
    metrics: bool = False
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.setting:
            setting_row(self.setting)
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise InputError(f"deadline_s = {self.deadline_s}: must be > 0, or null")
        if not 0 <= self.share <= 1:
            raise InputError(f"share = {self.share}: must be from 0 to 1")
        if not 0 < self.time_scale < float("inf"):
            raise InputError(f"time_scale = {self.time_scale}: must be positive and finite")


def load_config(path: Path | str) -> ServingConfig:
    """From a JSON file; InputError naming the file where it cannot be read or is wrong."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise InputError(f"is larger than {MAX_CONFIG_BYTES} bytes")
        return serving_config(json.loads(text))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error


def serving_config(config: Any) -> ServingConfig:
    """From what JSON holds. InputError naming the key that is unknown, missing or of another type."""
    given = _checked(config, ServingConfig, "")
    given["policy"] = PolicyConfig(**_checked(given.get("policy"), PolicyConfig, "policy."))
    given["fleet"] = FleetConfig(**_checked(given.get("fleet", {}), FleetConfig, "fleet."))
    return ServingConfig(**given)


def router_from_config(
    config: ServingConfig | Mapping[str, Any],
    replicas: Iterable[str],
    *,
    observers: Iterable[Observer] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Router:
    """A router over replicas of these names; of the configured observers and the given ones.

    config: also as a mapping, what the file of `load_config` holds. clock: seconds on the wall. InputError
    where the policy cannot be loaded or is not one of routers, where the log cannot be written, the package
    of metrics is missing, or names are none or twice there.
    """
    settings = config if isinstance(config, ServingConfig) else serving_config(config)
    fleet = FleetView(
        replicas,
        block_size=settings.fleet.block_size,
        kv_blocks=settings.fleet.kv_blocks,
        report_max_age_s=settings.fleet.report_max_age_s,
        dispatch_latency_s=settings.fleet.dispatch_latency_s,
    )
    return Router(
        router_policy(settings),
        fleet,
        share=settings.share,
        shadow=settings.shadow,
        deadline_s=settings.deadline_s,
        needs_reports=settings.needs_reports,
        observers=[*_observers(settings), *observers],
        clock=clock,
        time_scale=settings.time_scale,
    )


def engine_from_config(config: ServingConfig | Mapping[str, Any]) -> Engine:
    """What plans the iterations of one engine. InputError as for a router, and for what only those heed."""
    settings = config if isinstance(config, ServingConfig) else serving_config(config)
    refuse_settings(settings, "an engine", "share", "needs_reports", "decision_log", "metrics")
    return Engine(engine_policy(settings), deadline_s=settings.deadline_s, shadow=settings.shadow)


def refuse_settings(settings: ServingConfig, place: str, *names: str) -> None:
    """InputError where one of these is set otherwise than by default: there it would not be heeded."""
    for name in names:
        default = ServingConfig.__dataclass_fields__[name].default
        if getattr(settings, name) != default:
            raise InputError(f"{name} = {getattr(settings, name)}: {place} knows none; must be {default}")


def router_policy(settings: ServingConfig) -> RouterPolicy:
    """The policy of a router. InputError where it cannot be loaded or is not one of routers."""
    if settings.policy.artifact is not None:
        return LearnedRouter(_artifact(settings.policy), settings.setting, settings.policy.artifact)
    assert settings.policy.heuristic is not None
    if settings.policy.heuristic in PLAIN and not settings.policy.parameters:
        return PLAIN[settings.policy.heuristic]()
    from servegym.agents.serving.heuristics import HeuristicRouter

    return HeuristicRouter(settings.policy.heuristic, settings.policy.parameters)


def engine_policy(settings: ServingConfig) -> EnginePolicy:
    """The policy of an engine. InputError where it cannot be loaded or is not one of engines."""
    if settings.policy.artifact is not None:
        return LearnedScheduler(_artifact(settings.policy), settings.policy.artifact)
    assert settings.policy.heuristic is not None
    from servegym.agents.serving.heuristics import RankedScheduler

    return RankedScheduler(settings.policy.heuristic, settings.policy.parameters)


def _artifact(policy: PolicyConfig) -> ExportedPolicy:
    assert policy.artifact is not None
    return load_artifact(policy_folder(policy.artifact), policy.backend, policy.signature_key())


def _observers(settings: ServingConfig) -> list[Observer]:
    observers: list[Observer] = []
    if settings.metrics:
        from servegym.agents.serving.telemetry.metrics import RouterMetrics

        observers.append(RouterMetrics())
    if settings.decision_log is not None:
        from servegym.agents.serving.telemetry.decision_log import DecisionLog

        path, scale = Path(settings.decision_log), settings.time_scale
        observers.append(DecisionLog(path, setting=settings.setting, clock=lambda: time.time() / scale))
    return observers


TYPES: dict[str, tuple[type, ...]] = {
    "artifact": (str, type(None)),
    "backend": (str,),
    "key": (str, type(None)),
    "heuristic": (str, type(None)),
    "parameters": (dict,),
    "block_size": (int,),
    "kv_blocks": (int,),
    "report_max_age_s": (int, float),
    "dispatch_latency_s": (int, float),
    "policy": (dict,),
    "setting": (dict,),
    "fleet": (dict,),
    "deadline_s": (int, float, type(None)),
    "share": (int, float),
    "shadow": (bool,),
    "needs_reports": (bool,),
    "decision_log": (str, type(None)),
    "metrics": (bool,),
    "time_scale": (int, float),
}
"""What JSON may hold under each key."""


def _checked(given: Any, schema: type, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InputError(f"{where.rstrip('.') or 'the configuration'}: must be an object with keys")
    known = [each.name for each in fields(schema)]
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{where}{key}: must be one of {', '.join(known)}")
        types = TYPES[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            allowed = " or ".join("null" if each is type(None) else each.__name__ for each in types)
            raise InputError(f"{where}{key} = {value!r}: must be {allowed}")
    return dict(given)
