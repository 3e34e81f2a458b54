"""From a composed configuration to the objects a command works with, or to one line about what is wrong."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from servegym.agents.batch_schedulers import (
    AUTOSCALERS,
    BATCH_SCHEDULERS,
    make_autoscaler,
    make_batch_scheduler,
)
from servegym.agents.elastic_managers import MANAGERS
from servegym.agents.elastic_systems import RIVALS, ElasticSystem, ServedRequests, make_elastic_system
from servegym.agents.heuristics import REBALANCERS, ROUTERS, make_rebalancer, make_router
from servegym.agents.schedulers import SCHEDULERS, make_scheduler
from servegym.costmodels.errors import InputError
from servegym.envs.batch_scenario import BatchScenario
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.sim.batch.autoscaler import Autoscaler
from servegym.envs.sim.batch.scheduler import BatchScheduler
from servegym.envs.sim.llm.cluster.plan import Migration
from servegym.envs.sim.llm.ranking import Ranking
from servegym.envs.sim.llm.router import Router
from servegym.envs.workloads import Workload
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


def load_config(path: Path, schema: type[Schema], **parts: type) -> Schema:
    """A configuration that an earlier command has written. InputError where it does not fit its schema.

    parts: the schemas of keys that can be of several kinds.
    """
    try:
        template = OmegaConf.structured(schema)
        for key, part in parts.items():
            template[key] = OmegaConf.structured(part)
        settings = OmegaConf.to_object(OmegaConf.merge(template, OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        raise InputError(f"{path}: {explain(error)}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    assert isinstance(settings, schema)
    return settings


def read_seeds(given: object, fewest: int = 1) -> list[int]:
    """A number of seeds, 0 and up, or a list; InputError for anything else and for less than `fewest`."""
    seeds = list(range(given)) if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(seeds, list) or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise InputError(
            f"seeds = {given}: must be a number of seeds, or a list of whole numbers of at least 0"
        )
    if len(seeds) < fewest or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds = {given}: must be at least {fewest} different ones")
    return seeds


def _predicted_outputs(scenario: Scenario) -> np.ndarray:
    """Of the requests of a training episode, tokens."""
    episode = scenario.traffic.train_workload(np.random.SeedSequence(0))
    if episode.predicted_output_tokens is None:
        raise InputError(
            "scheduler needs predicted output lengths: the scenario has none (scenario.workload.predictor)"
        )
    return episode.predicted_output_tokens


FROM_SCENARIO: dict[str, Callable[[Scenario], object]] = {
    "clock": lambda scenario: scenario.clock,
    "roles": lambda scenario: scenario.roles,
    "predicted_outputs": _predicted_outputs,
    "mean_output_tokens": lambda scenario: scenario.traffic.mean_output_tokens,
}
"""Parameters of routers and schedulers that no YAML gives: they are the scenario's."""


def build_router(parameters: dict[str, object], scenario: Scenario) -> Router:
    """The router from its YAML: `name`, and the parameters published for it, checked against their types.

    What a router must know of the scenario, `FROM_SCENARIO`, is added.
    """
    name, rest = completed("router", ROUTERS, parameters, scenario)
    return make_router(name, **rest)


def build_scheduler(parameters: dict[str, object], scenario: Scenario) -> Ranking:
    """The scheduler from its YAML, as a router."""
    name, rest = completed("scheduler", SCHEDULERS, parameters, scenario)
    return make_scheduler(name, **rest)


def build_scenario(
    config: ScenarioConfig,
    rebalancer: dict[str, object] | None = None,
    scheduler: dict[str, object] | None = None,
) -> Scenario:
    """The scenario with a rebalancer and a scheduler from their YAML (None: nobody moves; the engine's)."""
    migration = build_migration(rebalancer)
    scenario = Scenario(config, migration)
    if scheduler is None:
        return scenario
    return Scenario(config, migration, build_scheduler(scheduler, scenario))


def build_batch_scheduler(parameters: dict[str, object]) -> BatchScheduler:
    """The batch scheduler from its YAML, as a router; its keys begin with `policy`."""
    rest = dict(parameters)
    name = str(rest.pop("name"))
    _check_types("policy", get_type_hints(BATCH_SCHEDULERS.get(name, make_batch_scheduler)), rest)
    try:
        return make_batch_scheduler(name, **rest)
    except InputError as error:
        raise InputError(str(error).replace("batch_scheduler.", "policy.", 1)) from None


def build_elastic_system(parameters: dict[str, object]) -> ElasticSystem:
    """The system that serves an elastic scenario from its YAML, as a router; its keys begin with `policy`."""
    rest = dict(parameters)
    name = str(rest.pop("name"))
    _check_types("policy", get_type_hints({**MANAGERS, **RIVALS}.get(name, make_elastic_system)), rest)
    with _of_policy():
        system = make_elastic_system(name, **rest)

    def serve(scenario: ElasticScenario, workload: Workload) -> ServedRequests:
        with _of_policy():
            return system.serve(scenario, workload)

    return replace(system, serve=serve)


@contextmanager
def _of_policy() -> Iterator[None]:
    """What a parameter of an elastic system is refused for, by the key of the commands."""
    try:
        yield
    except InputError as error:
        raise InputError(
            re.sub(r"^(elastic_system|elastic_manager|engine)\b", "policy", str(error))
        ) from None


FROM_BATCH_SCENARIO: dict[str, Callable[[BatchScenario], object]] = {
    "max_gpus": lambda scenario: scenario.cluster.num_gpus,
    "initial": lambda scenario: scenario.config.fleet.initial_gpus or scenario.cluster.num_gpus,
    "startup_s": lambda scenario: scenario.config.fleet.startup_s,
}
"""Parameters of autoscalers that no YAML gives."""


def build_autoscaler(parameters: dict[str, object] | None, scenario: BatchScenario) -> Autoscaler | None:
    """The autoscaler from its YAML, as a router; None for none."""
    if parameters is None:
        return None
    rest = dict(parameters)
    name = str(rest.pop("name"))
    for key in FROM_BATCH_SCENARIO.keys() & rest.keys():
        raise InputError(f"autoscaler.{key} = {rest[key]}: is the scenario's, must not be given")
    _check_types("autoscaler", get_type_hints(AUTOSCALERS.get(name, make_autoscaler)), rest)
    of_scenario = {key: of(scenario) for key, of in FROM_BATCH_SCENARIO.items()}
    return make_autoscaler(name, **rest, **of_scenario)


def completed(
    family: str,
    makers: Mapping[str, Callable[..., Any]],
    parameters: dict[str, object],
    scenario: Scenario,
) -> tuple[str, dict[str, object]]:
    """Name and parameters of a policy, checked against their types, with those of `FROM_SCENARIO`."""
    rest = dict(parameters)
    name = str(rest.pop("name"))
    known = get_type_hints(makers[name]) if name in makers else {}
    for key, value in rest.items():
        if key in FROM_SCENARIO and key in known:
            raise InputError(f"{family}.{key} = {value}: is the scenario's, must not be given")
    _check_types(family, known, rest)
    return name, rest | {key: of(scenario) for key, of in FROM_SCENARIO.items() if key in known}


def build_migration(parameters: dict[str, object] | None) -> Migration | None:
    """The rebalancer from its YAML and how its moves are made; None for none."""
    if parameters is None:
        return None
    rest = dict(parameters)
    name = str(rest.pop("name"))
    known: dict[str, type] = {"every_s": float, "last_stage_blocks": int, "max_stages": int}
    if name in REBALANCERS:
        known |= get_type_hints(REBALANCERS[name])
    _check_types("rebalancer", known, rest)
    how = {key: rest.pop(key) for key in ("every_s", "last_stage_blocks", "max_stages") if key in rest}
    if "every_s" not in how:
        raise InputError("rebalancer.every_s: must be given")
    rule = make_rebalancer(name, **rest)
    try:
        return Migration(rule, **how)  # type: ignore[arg-type]  # checked above
    except InputError as error:
        raise InputError(str(error).replace("migration.", "rebalancer.", 1)) from None


def _check_types(family: str, known: Mapping[str, type], given: Mapping[str, object]) -> None:
    for key, value in given.items():
        if key in known and not _is_a(value, known[key]):
            raise InputError(f"{family}.{key} = {value}: must be {_wanted(known[key])}")


def _is_a(value: object, kind: type) -> bool:
    """Whether it is of that type, where an int may stand for a float; of a sequence: a list of such."""
    if get_origin(kind) is Sequence:
        return isinstance(value, list) and all(_is_a(each, get_args(kind)[0]) for each in value)
    return type(value) is kind or (kind is float and type(value) is int)


def _wanted(kind: type) -> str:
    if get_origin(kind) is Sequence:
        return f"a list, each {_wanted(get_args(kind)[0])}"
    return f"of type {kind.__name__}"


def _missing(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of the keys that still need a value; references to such keys do not count."""
    for key in map(str, node):
        if OmegaConf.is_missing(node, key):
            yield f"{prefix}{key}"
        elif not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            yield from _missing(node[key], f"{prefix}{key}.")
