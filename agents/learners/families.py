"""What can be learnt: each kind of decision problem, with all that a trainer has to know of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.batch_scenario import BatchScenario
from servegym.envs.batch_scenario.config import BatchScenarioConfig
from servegym.envs.deferred_batching.vector import DeferredBatchingVectorEnv
from servegym.envs.dynamic_batching.config import DynamicBatchingConfig
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario
from servegym.envs.dynamic_batching.vector import DynamicBatchingVectorEnv
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.vector import NativeVectorEnv


class Shown(NamedTuple):
    """The metric of an episode that a person is told, and how: `factor` brings it to `unit`."""

    metric: str
    label: str
    factor: float
    unit: str


@dataclass(frozen=True)
class Family:
    """A kind of decision problem: an environment, and the networks that read what is observed in it.

    environment: its id. schema: of the configuration of its scenarios; scenario: makes one ready to run.
    vector: the native vector environment of a number of episodes of a scenario. num_actions: of the
    environment, from the configuration of a scenario. masked: whether the learner has to ask the environment
    which actions are legal; if not, the networks see it. metrics: of an episode, in the training curve.
    source: where the requests of a scenario come from, and what of them is kept for testing, for the run's
    provenance. work: requests served by actions, where an episode is a piece of a process without end and waiting
    is a decision (centring.py). exportable: whether a trained network can be handed to a serving system.
    """

    environment: str
    schema: type
    scenario: Callable[[Any], Any]
    vector: Callable[[int, Any], NativeVectorEnv]
    networks: tuple[str, ...]
    num_actions: Callable[[Any], int]
    masked: bool
    metrics: tuple[str, ...]
    shown: Shown
    source: Callable[[Any], dict[str, Any]]
    work: Callable[[np.ndarray], np.ndarray] | None = None
    exportable: bool = False


def _of_traffic(scenario: Scenario) -> dict[str, Any]:
    return {"workload_source": scenario.traffic.source, "held_out": scenario.traffic.held_out}


def batch_sizes(actions: np.ndarray) -> np.ndarray:
    """Requests served by actions of DynamicBatching-v0: they are the sizes of the batches."""
    return actions.astype(np.float64)


FAMILIES = (
    Family(
        environment="servegym/Routing-v0",
        schema=ScenarioConfig,
        scenario=Scenario,
        vector=RoutingVectorEnv,
        networks=("gnn", "mlp"),
        num_actions=lambda config: int(config.fleet.num_replicas),
        masked=False,
        metrics=("mean_ttft_s", "p99_ttft_s", "mean_latency_s"),
        shown=Shown("mean_ttft_s", "mean TTFT", 1e3, "ms"),
        source=_of_traffic,
        exportable=True,
    ),
    Family(
        environment="servegym/DynamicBatching-v0",
        schema=DynamicBatchingConfig,
        scenario=DynamicBatchingScenario.of_config,
        vector=DynamicBatchingVectorEnv,
        networks=("queue_mlp",),
        num_actions=lambda config: int(config.max_batch) + 1,
        masked=True,
        metrics=("cost", "mean_response_s", "power_w", "mean_batch"),
        shown=Shown("cost", "mean cost", 1e3, "ms"),
        source=lambda scenario: {"workload_source": "poisson arrivals", "held_out": None},
        work=batch_sizes,
    ),
    Family(
        environment="servegym/DeferredBatching-v0",
        schema=BatchScenarioConfig,
        scenario=BatchScenario,
        vector=DeferredBatchingVectorEnv,
        networks=("gpu_scorer",),
        num_actions=lambda config: 1 + 2 * int(config.fleet.num_gpus),
        masked=True,
        metrics=("bad_share", "good_rps", "utilisation", "mean_batch"),
        shown=Shown("bad_share", "bad requests", 1e2, "%"),
        source=lambda scenario: {"workload_source": scenario.traffic.source, "held_out": None},
    ),
)
"""All of them; no two have a network in common."""


def family_of(network: str) -> Family:
    """The family that a network of NETWORKS is for: a network is made for what it observes."""
    return next(family for family in FAMILIES if network in family.networks)


def check_fits(network: str, scenario: Any) -> None:
    """InputError where a network is not made for scenarios of this kind, saying which are."""
    if isinstance(scenario, family_of(network).schema):
        return
    fitting = [name for family in FAMILIES if isinstance(scenario, family.schema) for name in family.networks]
    raise InputError(
        f"agent.network = {network}: learns {family_of(network).environment}, which scenario {scenario.name} is "
        f"not for; must be one of {', '.join(fitting)}"
    )
