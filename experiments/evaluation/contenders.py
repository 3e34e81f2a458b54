"""What can be evaluated: routers and schedulers by their names, trained policies by their folders."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from servegym.agents.heuristics import ROUTERS
from servegym.agents.policy import Policy
from servegym.agents.schedulers import SCHEDULERS
from servegym.agents.serving.artifact.schema import FILES
from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.compose import CONFIG_MODULE
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.suites import Suite, load_suite
from servegym.envs.workloads import Workload
from servegym.experiments.configs import build_router, build_scheduler

if TYPE_CHECKING:  # the learners load torch
    from servegym.agents.learners.families import Family


@dataclass(frozen=True)
class Contender:
    """One policy: its name as the user wrote it, what it is, and how it serves one workload per seed.

    scheduler: its name; None: the engine's own.
    """

    name: str
    description: str
    serve: Callable[[Sequence[Workload], Sequence[int]], list[Results]]
    scheduler: str | None = None


OWN_ORDER = "fcfs"
"""The engine's own scheduler on one replica, whose order must be this one."""

KINDS = ("router", "scheduler", "artifact", "run")


def kind_of(name: str) -> str:
    """What a policy is, of KINDS: a router may come with a scheduler. InputError for others."""
    router, plus, scheduler = name.partition("+")
    if router in ROUTERS and plus and scheduler not in SCHEDULERS:
        raise InputError(f"policies: {name}: what follows the + must be one of {', '.join(SCHEDULERS)}")
    if router in ROUTERS:
        return "router"
    if name in (OWN_ORDER, *SCHEDULERS):
        return "scheduler"
    folder = policy_folder(name)
    if not folder.is_dir():
        raise InputError(
            f"policies: {name}: must be one of {', '.join(ROUTERS)}, ROUTER+SCHEDULER, on one replica "
            f"{OWN_ORDER} or SCHEDULER, zoo:NAME, or the folder of a training run or of an exported policy"
        )
    return "artifact" if any((folder / part).is_file() for part in FILES) else "run"


def scenario_of_run(name: str) -> ScenarioConfig:
    """The scenario that a run was trained on. InputError for a suite, and for other than LLM fleets."""
    from servegym.experiments.run_directory import load_run_config

    config = load_run_config(Path(name))
    if config.suite is not None:
        raise InputError(
            f"scenario: no choice made, and {name} was trained on a suite; give suite={config.suite.name} or "
            "scenario=NAME (servegym list shows the names)"
        )
    if not isinstance(config.scenario, ScenarioConfig):
        raise _not_of_fleets(name)
    return config.scenario


def suite_of(name: str) -> Suite | None:
    """The suite that a trained policy was trained on; None for others. InputError for unknown policies."""
    kind = kind_of(name)
    if kind == "run":
        from servegym.experiments.run_directory import load_run_config

        return load_run_config(Path(name)).suite
    if kind == "artifact":
        from servegym.agents.serving.artifact.load import load_artifact

        suite = load_artifact(policy_folder(name)).description["provenance"].get("suite")
        return load_suite(suite["name"]) if suite else None
    return None


def contender(name: str, kind: str, scenario: Scenario) -> Contender:
    """The policy `name` of a kind that `kind_of` knows.

    InputError where a router or scheduler needs what the scenario lacks, where a folder is incomplete, made
    for another number of replicas, or trained on requests of the test part.
    """
    if kind == "router":
        return _heuristic(name, scenario)
    if kind == "scheduler":
        return _of_one_replica(name, scenario)
    from servegym.agents.learners.families import family_of, family_of_level

    if kind == "artifact":
        from servegym.agents.serving.artifact.load import load_artifact

        artifact = load_artifact(policy_folder(name))
        _check_disjoint(name, artifact.description["provenance"], scenario)
        family = family_of_level(artifact.description["level"])
        return _side_by_side(name, "exported, run by ONNX Runtime", artifact, family, scenario)
    import torch

    from servegym.experiments.run_directory import load_run_config, load_run_policy

    torch.set_num_threads(1)  # a second thread made these small products ten times as slow
    policy, provenance = load_run_policy(Path(name))
    _check_disjoint(name, provenance, scenario)
    description = f"{policy.name}, trained for {provenance['steps']:,} decisions on {provenance['scenario']}"
    family = family_of(load_run_config(Path(name)).agent.network)
    return _side_by_side(name, description, policy, family, scenario)


def configured_router(name: str, scenario: Scenario) -> Router:
    """A router with the parameters of `conf/router/<name>.yaml`, which may refer to the scenario."""
    return build_router(_parameters("router", name, scenario), scenario)


def with_scheduler(name: str, scenario: Scenario) -> Scenario:
    """The scenario under the scheduler of `conf/scheduler/<name>.yaml`, which may refer to the scenario."""
    parameters = _parameters("scheduler", name, scenario)
    return Scenario(scenario.config, scenario.plan.migration, build_scheduler(parameters, scenario))


def _parameters(group: str, name: str, scenario: Scenario) -> dict[str, object]:
    text = (files(CONFIG_MODULE) / group / f"{name}.yaml").read_text()
    config = OmegaConf.create({"scenario": asdict(scenario.config), group: OmegaConf.create(text)})
    parameters = OmegaConf.to_container(config[group], resolve=True)
    assert isinstance(parameters, dict)
    return {str(key): value for key, value in parameters.items()}


def _heuristic(name: str, scenario: Scenario) -> Contender:
    router_name, _, scheduler = name.partition("+")
    if scheduler:
        scenario = with_scheduler(scheduler, scenario)
        scenario.check_ranking()
    router = configured_router(router_name, scenario)
    scenario.check_router(router)

    def serve(workloads: Sequence[Workload], seeds: Sequence[int]) -> list[Results]:
        return [
            scenario.simulate(workload, router, seed=seed)
            for workload, seed in zip(workloads, seeds, strict=True)
        ]

    return Contender(name, "published", serve, scheduler or None)


def _of_one_replica(name: str, scenario: Scenario) -> Contender:
    """A scheduler without a router, which one replica does not need."""
    if scenario.num_replicas > 1:
        raise InputError(
            f"policies: {name}: must be ROUTER or ROUTER+SCHEDULER, since "
            f"{scenario.name} has {scenario.num_replicas} replicas"
        )
    if name == OWN_ORDER and scenario.engine.order != OWN_ORDER:
        raise InputError(f"policies: {name}: the engine's order is {scenario.engine.order}")
    routed = "round_robin" if name == OWN_ORDER else f"round_robin+{name}"
    return replace(_heuristic(routed, scenario), name=name)


def _side_by_side(
    name: str, description: str, policy: Policy, family: "Family", scenario: Scenario
) -> Contender:
    """A network, which is asked about a decision in every workload at once.

    It serves one request first, so that a policy for another fleet is refused before the work begins.
    """
    play = family.play
    if play is None:
        raise _not_of_fleets(name)
    try:
        play(policy, scenario, [scenario.traffic.test_workload(0).take(slice(1))])
    except InputError as error:
        raise InputError(f"policies: {name}: {error}") from error

    def serve(workloads: Sequence[Workload], seeds: Sequence[int]) -> list[Results]:
        return play(policy, scenario, workloads)

    return Contender(name, description, serve)


def _check_disjoint(name: str, provenance: dict[str, Any], scenario: Scenario) -> None:
    """InputError where the policy may have been trained on requests of the test part."""
    found, tested = provenance.get("held_out") or [], scenario.traffic.held_out
    for trained in found if isinstance(found, list) else [found]:
        if tested and trained["trace"] == tested["trace"] and trained["test_s"] < tested["test_s"]:
            raise InputError(
                f"scenario.workload.test_s = {tested['test_s']:g}: must be at most {trained['test_s']:g}, "
                f"since {name} was trained on what comes before"
            )


def _not_of_fleets(name: str) -> InputError:
    return InputError(f"policies: {name}: was not trained to route; evaluate it by run_dir={name}")
