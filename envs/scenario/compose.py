"""Hydra's side of scenarios: the schema it checks YAML against, and composing one by name."""

from contextlib import nullcontext
from importlib.resources import files
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from servegym.costmodels.errors import InputError
from servegym.envs.batch_scenario.config import BatchScenarioConfig
from servegym.envs.dynamic_batching.config import DynamicBatchingConfig
from servegym.envs.elastic_scenario.config import ElasticScenarioConfig
from servegym.envs.scenario.config import (
    CostModelConfig,
    EngineConfig,
    ObjectiveConfig,
    ScenarioConfig,
    WorkloadConfig,
)
from servegym.envs.scenario.fleet_config import FleetConfig

CONFIG_MODULE = "servegym.conf"

SCENARIO_SCHEMAS: dict[str, tuple[type, str]] = {
    "schema": (ScenarioConfig, "of LLM fleets"),
    "batch_schema": (BatchScenarioConfig, "of batch serving"),
    "dynamic_batching_schema": (DynamicBatchingConfig, "of one batching server"),
    "elastic_schema": (ElasticScenarioConfig, "of elastic sequence parallelism"),
}
"""The kinds of scenarios by the schema that their YAML names first, and what they are about."""

Config = TypeVar("Config")


def register_scenario_schema() -> None:
    """Makes the dataclasses known to Hydra as `schema` of their groups. Idempotent."""
    store = ConfigStore.instance()
    for name, (schema, _) in SCENARIO_SCHEMAS.items():
        store.store(group="scenario", name=name, node=schema)
    for group, schema in (
        ("workload", WorkloadConfig),
        ("fleet", FleetConfig),
        ("engine", EngineConfig),
        ("costmodel", CostModelConfig),
        ("objective", ObjectiveConfig),
    ):
        store.store(group=group, name="schema", node=schema)


def scenario_kind(name: str) -> tuple[type, str]:
    """Schema of the scenario `conf/scenario/<name>.yaml`, and what such scenarios are about."""
    content: dict[str, Any] = yaml.safe_load((files(CONFIG_MODULE) / "scenario" / f"{name}.yaml").read_text())
    return SCENARIO_SCHEMAS[content["defaults"][0]]


def list_scenarios(schema: type) -> list[str]:
    """Names of the scenarios of one kind."""
    return [name for name in list_group("scenario") if scenario_kind(name)[0] is schema]


def compose_scenario(name: str, overrides: tuple[str, ...] = ()) -> ScenarioConfig:
    """The configuration of a scenario of LLM fleets, `conf/scenario/<name>.yaml`, with Hydra overrides."""
    return compose_scenario_of(ScenarioConfig, name, overrides)


def compose_scenario_of(schema: type[Config], name: str, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration `conf/scenario/<name>.yaml` with Hydra overrides.

    InputError for one of another kind than `schema`, listing those of this kind.
    """
    register_scenario_schema()
    known = list_scenarios(schema)
    if name not in known:
        other = f"is {scenario_kind(name)[1]}, " if name in list_group("scenario") else ""
        raise InputError(f"scenario = {name}: {other}must be one of {', '.join(known)}")
    return compose_group("scenario", name, schema, overrides)


def compose_group(group: str, name: str, schema: type[Config], overrides: tuple[str, ...] = ()) -> Config:
    """`conf/<group>/<name>.yaml` with Hydra overrides. InputError lists what there is."""
    if name not in list_group(group):
        raise InputError(f"{group} = {name}: must be one of {', '.join(list_group(group))}")
    running = GlobalHydra.instance().is_initialized()  # by a command: it has the same module
    with nullcontext() if running else initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            config = compose(overrides=[f"+{group}={name}", *overrides])
        except (ConfigCompositionException, OmegaConfBaseException) as error:
            said = dict.fromkeys(str(each).splitlines()[0] for each in (error, error.__cause__) if each)
            raise InputError(f"{group} {name}: {' '.join(said)}") from error
    missing = sorted(OmegaConf.missing_keys(config[group]))
    if missing:
        raise InputError(f"{group}: no value for {', '.join(missing)}")
    settings = OmegaConf.to_object(config[group])
    assert isinstance(settings, schema)
    return settings


def list_group(group: str) -> list[str]:
    """Names of the choices in a group of `conf/`."""
    folder = files(CONFIG_MODULE) / group
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))
