"""From a composed configuration to the objects a command works with, or to one line about what is wrong."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from servegym.agents.heuristics import ROUTERS, make_router
from servegym.costmodels.errors import InputError
from servegym.envs.scenario import Scenario, ScenarioConfig
from servegym.envs.sim.llm.router import Router
from servegym.envs.workloads import find_data, load_fitted
from servegym.experiments.config_errors import explain, no_value

Schema = TypeVar("Schema")


def read_config(config: DictConfig, schema: type[Schema]) -> Schema:
    """The configuration as an instance of its schema, every interpolation resolved.

    InputError for values that are missing or out of range, before anything is built from them.
    """
    try:
        missing = list(_missing(config))
        if missing:
            raise InputError(no_value(missing))
        OmegaConf.resolve(config)
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise InputError(explain(error)) from error
    assert isinstance(settings, schema)
    return settings


def build_scenario(config: ScenarioConfig) -> Scenario:
    """The scenario, built: traces read, values checked against each other.

    A generator stands in only for the trace it was fitted to, so a misspelt file is an error.
    """
    workload = config.workload
    if workload.trace is not None and workload.fitted is not None:
        name = Path(workload.trace).name
        there = Path(workload.trace).is_file() or find_data(workload.trace) is not None
        if not there and name != load_fitted(workload.fitted).provenance["source"]:
            raise InputError(
                f"scenario.workload.trace = {workload.trace}: no such file, here or in the data folder"
            )
    return Scenario(config)


def build_router(parameters: dict[str, object]) -> Router:
    """The router from its YAML: `name`, and the parameters published for it, checked against their types."""
    rest = dict(parameters)
    name = str(rest.pop("name"))
    known = inspect.signature(ROUTERS[name]).parameters if name in ROUTERS else {}
    for key, value in rest.items():
        if key in known and type(value) is not known[key].annotation:
            raise InputError(f"router.{key} = {value}: must be of type {known[key].annotation.__name__}")
    return make_router(name, **rest)


def _missing(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of the keys that still need a value; references to such keys do not count."""
    for key in map(str, node):
        if OmegaConf.is_missing(node, key):
            yield f"{prefix}{key}"
        elif not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            yield from _missing(node[key], f"{prefix}{key}.")
