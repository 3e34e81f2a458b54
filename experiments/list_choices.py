"""`servegym list`: the names that other commands take."""

import inspect
import sys
from typing import Any

import gymnasium as gym
from rich.console import Console

import servegym.envs  # noqa: F401  (registers the environments)
from servegym.agents.batch_schedulers import AUTOSCALERS, BATCH_SCHEDULERS
from servegym.agents.elastic_managers import MANAGERS
from servegym.agents.elastic_systems import RIVALS
from servegym.agents.heuristics import REBALANCERS, ROUTERS
from servegym.agents.schedulers import SCHEDULERS
from servegym.agents.zoo import PREFIX, zoo_policies
from servegym.costmodels.specs import GPUS, MODELS
from servegym.envs.scenario.compose import SCENARIO_SCHEMAS, list_group, list_scenarios
from servegym.experiments.configs import FROM_BATCH_SCENARIO, FROM_SCENARIO
from servegym.experiments.json_answer import to_json

USE = {
    **{f"scenarios {of}": "scenario=NAME" for _, of in SCENARIO_SCHEMAS.values()},
    "routers": "router=NAME router.PARAMETER=VALUE",
    "schedulers": "scheduler=NAME scheduler.PARAMETER=VALUE",
    "batch schedulers": "policy=NAME policy.PARAMETER=VALUE",
    "autoscalers": "autoscaler=NAME autoscaler.PARAMETER=VALUE",
    "elastic systems": "policy=NAME policy.PARAMETER=VALUE",
    "rebalancers": "rebalancer=NAME rebalancer.PARAMETER=VALUE",
    "suites": "suite=NAME",
    "agents": "agent=NAME",
    "trackers": "train tracking=NAME",
    "zoo": "evaluate policy=NAME",
    "workloads": "workload@scenario.workload=NAME",
    "fleets": "fleet@scenario.fleet=NAME",
    "engines": "engine@scenario.engine=NAME",
    "cost models": "costmodel@scenario.costmodel=NAME",
    "objectives": "objective@scenario.objective=NAME",
    "gpus": "scenario.fleet.gpu=NAME",
    "models": "scenario.fleet.model=NAME",
    "environments": 'gymnasium.make("servegym.envs:NAME")',
}
"""How each kind of name is given."""


def run_list(words: list[str], as_json: bool) -> int:
    """The command; it takes no arguments."""
    if words and words != ["--help"]:
        print(f"servegym: error: list takes no arguments but --json, not {' '.join(words)}", file=sys.stderr)
        return 2
    found = choices()
    if as_json:
        print(to_json(found))
        return 0
    console = Console(soft_wrap=True, highlight=False)
    for kind, names in found.items():
        console.print(f"[bold]{kind}[/bold]  [dim]{USE[kind]}[/dim]")
        for name in names:
            console.print(f"  {_with_parameters(name, names[name]) if isinstance(names, dict) else name}")
    return 0


def choices() -> dict[str, Any]:
    """Names by kind; each router, scheduler and rebalancer with the defaults of its parameters."""
    environments = sorted(name for name in gym.registry if name.startswith("servegym/"))
    return {
        **{f"scenarios {of}": list_scenarios(schema) for schema, of in SCENARIO_SCHEMAS.values()},
        "routers": {name: _defaults(make) for name, make in ROUTERS.items()},
        "schedulers": {name: _defaults(make) for name, make in SCHEDULERS.items()},
        "batch schedulers": {name: _defaults(make) for name, make in BATCH_SCHEDULERS.items()},
        "autoscalers": {name: _defaults(make) for name, make in AUTOSCALERS.items()},
        "elastic systems": {name: _defaults(make) for name, make in {**MANAGERS, **RIVALS}.items()},
        "rebalancers": {name: _defaults(make) for name, make in REBALANCERS.items()},
        "suites": list_group("suite"),
        "agents": list_group("agent"),
        "trackers": list_group("tracking"),
        "zoo": [PREFIX + name for name in zoo_policies()],
        "workloads": list_group("workload"),
        "fleets": list_group("fleet"),
        "engines": list_group("engine"),
        "cost models": list_group("costmodel"),
        "objectives": list_group("objective"),
        "gpus": sorted(GPUS),
        "models": sorted(MODELS),
        "environments": environments,
    }


def _defaults(make: Any) -> dict[str, Any]:
    parameters = inspect.signature(make).parameters
    of_scenario = {*FROM_SCENARIO, *FROM_BATCH_SCENARIO}
    return {name: each.default for name, each in parameters.items() if name not in of_scenario}


def _with_parameters(name: str, defaults: dict[str, Any]) -> str:
    parameters = ", ".join(f"{key}={value}" for key, value in defaults.items())
    return f"{name} ({parameters})" if parameters else name
