"""`servegym deploy`: the file that tells a serving system which policy decides, and what it must know."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig
from rich.console import Console

from servegym.agents.heuristics import ROUTERS
from servegym.agents.schedulers import SCHEDULERS
from servegym.agents.serving.artifact.load import load_artifact
from servegym.agents.serving.artifact.schema import SETTING_FEATURES
from servegym.agents.serving.config import (
    FleetConfig,
    PolicyConfig,
    ServingConfig,
    engine_policy,
    router_policy,
)
from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError
from servegym.costmodels.output_file import write_text
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.experiments.configs import build_scenario, completed, read_config

LEVELS = ("router", "engine")


@dataclass
class DeployConfig:
    """Schema of `conf/deploy.yaml`."""

    scenario: ScenarioConfig = MISSING
    policy: str | None = None
    backend: str = "auto"
    key: str | None = None
    router: Any = None
    scheduler: Any = None
    level: str | None = None
    deadline_s: float | None = 0.005
    share: float = 1.0
    shadow: bool = False
    needs_reports: bool = False
    report_max_age_s: float = 1.0
    decision_log: str | None = None
    metrics: bool = False
    time_scale: float = 1.0
    out: str = MISSING

    def __post_init__(self) -> None:
        if self.level not in (None, *LEVELS):
            raise InputError(f"level = {self.level}: must be {' or '.join(LEVELS)}, or null")
        given = [name for name in ("policy", "router", "scheduler") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"policy, router, scheduler: must be one of them, not {' and '.join(given) or 'none'}"
            )


def deploy(config: DictConfig) -> dict[str, Any]:
    """Writes the configuration of a router or an engine to `out`, having built what it names.

    InputError where the policy cannot serve, or the scenario does not have what it needs.
    """
    settings = read_config(config, DeployConfig)
    scenario = build_scenario(settings.scenario)
    serving = ServingConfig(
        policy=_policy(settings, scenario),
        setting=dict(zip(SETTING_FEATURES, scenario.setting.tolist(), strict=True)),
        fleet=FleetConfig(
            block_size=scenario.engine.block_size,
            kv_blocks=scenario.engine.num_kv_blocks,
            report_max_age_s=settings.report_max_age_s,
            dispatch_latency_s=scenario.plan.dispatch_latency_s,
        ),
        deadline_s=settings.deadline_s,
        share=settings.share,
        shadow=settings.shadow,
        needs_reports=settings.needs_reports,
        decision_log=settings.decision_log,
        metrics=settings.metrics,
        time_scale=settings.time_scale,
    )
    level = settings.level or _level(settings, serving.policy)
    name = (engine_policy if level == "engine" else router_policy)(serving).name
    write_text(Path(settings.out), json.dumps(asdict(serving), indent=2, default=_plain) + "\n")
    return {"out": settings.out, "policy": name, "level": level, "scenario": scenario.name}


def show(answer: dict[str, Any]) -> None:
    """Prints where the file is and what for."""
    level = {"engine": "an engine", "router": "a router"}[answer["level"]]
    Console(soft_wrap=True).print(
        f"{answer['policy']} as the policy of {level}, for {answer['scenario']}: {answer['out']}"
    )


def _level(settings: DeployConfig, policy: PolicyConfig) -> str:
    """What the policy decides, of LEVELS; one of both levels routes."""
    if policy.artifact is None:
        return "router" if settings.scheduler is None else "engine"
    artifact = load_artifact(policy_folder(policy.artifact), "numpy", policy.signature_key())
    return "engine" if artifact.description["level"] == "scheduler" else "router"


def _policy(settings: DeployConfig, scenario: Scenario) -> PolicyConfig:
    if settings.policy is not None:
        return PolicyConfig(settings.policy, settings.backend, settings.key)
    if settings.router is not None:
        name, parameters = completed("router", ROUTERS, settings.router, scenario)
    else:
        name, parameters = completed("scheduler", SCHEDULERS, settings.scheduler, scenario)
    return PolicyConfig(heuristic=name, parameters=parameters, key=settings.key)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{value!r} is not of JSON")
