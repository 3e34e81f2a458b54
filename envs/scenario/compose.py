"""Hydra's side of scenarios: the schema it checks YAML against, and composing one by name."""

from contextlib import nullcontext
from importlib.resources import files

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from servegym.costmodels.errors import InputError
from servegym.envs.scenario.config import (
    CostModelConfig,
    EngineConfig,
    ObjectiveConfig,
    ScenarioConfig,
    WorkloadConfig,
)
from servegym.envs.scenario.fleet_config import FleetConfig

CONFIG_MODULE = "servegym.conf"


def register_scenario_schema() -> None:
    """Makes the dataclasses known to Hydra as `schema` of their groups. Idempotent."""
    store = ConfigStore.instance()
    for group, schema in (
        ("scenario", ScenarioConfig),
        ("workload", WorkloadConfig),
        ("fleet", FleetConfig),
        ("engine", EngineConfig),
        ("costmodel", CostModelConfig),
        ("objective", ObjectiveConfig),
    ):
        store.store(group=group, name="schema", node=schema)


def to_scenario_config(node: DictConfig) -> ScenarioConfig:
    """Turns a composed `scenario` node into its dataclass; InputError for missing or bad values."""
    missing = sorted(OmegaConf.missing_keys(node))
    if missing:
        raise InputError(f"scenario: no value for {', '.join(missing)}")
    config = OmegaConf.to_object(node)
    assert isinstance(config, ScenarioConfig)
    return config


def compose_scenario(name: str, overrides: tuple[str, ...] = ()) -> ScenarioConfig:
    """The configuration `conf/scenario/<name>.yaml` with Hydra overrides."""
    register_scenario_schema()
    known = list_group("scenario")
    if name not in known:
        raise InputError(f"scenario = {name}: must be one of {', '.join(known)}")
    running = GlobalHydra.instance().is_initialized()  # by a command: it has the same module
    with nullcontext() if running else initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            config = compose(overrides=[f"+scenario={name}", *overrides])
        except (ConfigCompositionException, OmegaConfBaseException) as error:
            said = dict.fromkeys(str(each).splitlines()[0] for each in (error, error.__cause__) if each)
            raise InputError(f"scenario {name}: {' '.join(said)}") from error
    return to_scenario_config(config.scenario)


def list_group(group: str) -> list[str]:
    """Names of the choices in a group of `conf/`."""
    folder = files(CONFIG_MODULE) / group
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))
