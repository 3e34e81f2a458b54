"""What can be learnt: each kind of decision problem, with all that a trainer has to know of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from servegym.agents.batching import BoundedShortestFirst
from servegym.agents.deferred_batching import Frontrun
from servegym.agents.elastic_sequence_parallel import GainAndLoss
from servegym.agents.evaluation import route, route_and_schedule, schedule
from servegym.agents.learners.imitation import Imitated
from servegym.agents.networks.build import MIXTURES
from servegym.agents.policy import Policy
from servegym.agents.two_level import LeastMarginalLatency
from servegym.costmodels.errors import InputError
from servegym.envs.batch_scenario import BatchScenario
from servegym.envs.batch_scenario.config import BatchScenarioConfig
from servegym.envs.batching.vector import BatchingVectorEnv
from servegym.envs.deferred_batching.vector import DeferredBatchingVectorEnv
from servegym.envs.dynamic_batching.config import DynamicBatchingConfig
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario
from servegym.envs.dynamic_batching.vector import DynamicBatchingVectorEnv
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.elastic_scenario.config import ElasticScenarioConfig
from servegym.envs.elastic_sequence_parallel.observation import CHOICE, Observation, num_actions
from servegym.envs.elastic_sequence_parallel.vector import ElasticSequenceParallelVectorEnv
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.sim.llm.decisions import NUM_CHOICES
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.suite_vector import SuiteVectorEnv
from servegym.envs.suites import Suite
from servegym.envs.two_level.vector import TwoLevelVectorEnv
from servegym.envs.vector import NativeVectorEnv
from servegym.envs.workloads import Workload


class Shown(NamedTuple):
    """The metric of an episode that a person is told, and how: `factor` brings it to `unit`."""

    metric: str
    label: str
    factor: float
    unit: str


@dataclass(frozen=True)
class Family:
    """A kind of decision problem: an environment, and the networks that read what is observed in it.

    environment: its id. vector: its native form, of a number of episodes of a scenario. shown: of `metrics`.
    """

    environment: str
    schema: type
    """Of the configuration of a scenario."""
    scenario: Callable[[Any], Any]
    """From its configuration."""
    source: Callable[[Any], dict[str, Any]]
    """Where requests come from and what of them is kept for testing, for the run's provenance."""
    vector: Callable[..., NativeVectorEnv]
    """From a number of episodes, a scenario, and what `shape` says."""
    num_actions: Callable[[Any], int]
    """From the configuration of a scenario."""
    networks: tuple[str, ...]
    """Names of NETWORKS."""
    masked: bool
    """Whether the learner must ask the environment which actions are legal; if not, the networks see it."""
    metrics: tuple[str, ...]
    """Of an episode, in the training curve."""
    shown: Shown
    shape: Callable[[Sequence[Any]], dict[str, int]] = lambda configs: {}
    """Keywords of `vector` that give the scenarios of these configurations the same spaces."""
    teacher: Callable[[], Policy] | None = None
    """A rule that a network can learn to imitate first."""
    imitated: Imitated = "waits"
    """What of it: when it waits, or all that it does."""
    work: Callable[[Any, np.ndarray], np.ndarray] | None = None
    """Requests served, from what is observed and done, where decisions take unequal time (centring.py)."""
    level: str | None = None
    """What a trained network decides for a serving system (serving/artifact/); None: not exported."""
    play: Callable[[Policy, Scenario, Sequence[Workload]], list[Results]] | None = None
    """Serves whole workloads of LLM fleets under a policy, side by side (agents/evaluation.py)."""


def _of_traffic(scenario: Scenario) -> dict[str, Any]:
    return {"workload_source": scenario.traffic.source, "held_out": scenario.traffic.held_out}


def batch_sizes(observation: Any, actions: np.ndarray) -> np.ndarray:
    """Requests served by actions of DynamicBatching-v0: they are the sizes of the batches."""
    return actions.astype(np.float64)


def prefilled(observation: Observation, actions: np.ndarray) -> np.ndarray:
    """Requests that are prefilled by actions of ElasticSequenceParallel-v0."""
    requests = observation["choices"][np.arange(len(actions)), actions, CHOICE["requests"]]
    return np.where(observation["globals"][:, 0] > 0, requests, 0.0)


FAMILIES = (
    Family(
        environment="servegym/Routing-v0",
        schema=ScenarioConfig,
        scenario=Scenario,
        source=_of_traffic,
        vector=RoutingVectorEnv,
        networks=("gnn", "attention", "mlp", *MIXTURES),
        num_actions=lambda config: int(config.fleet.num_replicas),
        shape=lambda configs: {"slots": max(config.fleet.num_replicas for config in configs)},
        masked=False,
        metrics=("mean_ttft_s", "p99_ttft_s", "mean_latency_s"),
        shown=Shown("mean_ttft_s", "mean TTFT", 1e3, "ms"),
        level="router",
        play=route,
    ),
    Family(
        environment="servegym/Batching-v0",
        schema=ScenarioConfig,
        scenario=Scenario,
        source=_of_traffic,
        vector=BatchingVectorEnv,
        networks=("engine_scorer",),
        num_actions=lambda config: NUM_CHOICES,
        masked=True,
        metrics=("mean_latency_s", "p99_latency_s", "mean_ttft_s", "p99_ttft_s"),
        shown=Shown("mean_latency_s", "mean latency", 1.0, "s"),
        teacher=BoundedShortestFirst,
        imitated="all",
        level="scheduler",
        play=schedule,
    ),
    Family(
        environment="servegym/TwoLevel-v0",
        schema=ScenarioConfig,
        scenario=Scenario,
        source=_of_traffic,
        vector=TwoLevelVectorEnv,
        networks=("two_level",),
        num_actions=lambda config: int(config.fleet.num_replicas) + NUM_CHOICES,
        masked=True,
        metrics=("mean_latency_s", "p99_latency_s", "mean_ttft_s", "p99_ttft_s"),
        shown=Shown("mean_latency_s", "mean latency", 1.0, "s"),
        teacher=LeastMarginalLatency,
        imitated="all",
        level="two_level",
        play=route_and_schedule,
    ),
    Family(
        environment="servegym/DynamicBatching-v0",
        schema=DynamicBatchingConfig,
        scenario=DynamicBatchingScenario.of_config,
        source=lambda scenario: {"workload_source": "poisson arrivals", "held_out": None},
        vector=DynamicBatchingVectorEnv,
        networks=("queue_mlp",),
        num_actions=lambda config: int(config.max_batch) + 1,
        masked=True,
        metrics=("cost", "mean_response_s", "power_w", "mean_batch"),
        shown=Shown("cost", "mean cost", 1e3, "ms"),
        work=batch_sizes,
    ),
    Family(
        environment="servegym/DeferredBatching-v0",
        schema=BatchScenarioConfig,
        scenario=BatchScenario,
        source=lambda scenario: {"workload_source": scenario.traffic.source, "held_out": None},
        vector=DeferredBatchingVectorEnv,
        networks=("gpu_scorer",),
        num_actions=lambda config: 1 + 2 * int(config.fleet.num_gpus),
        masked=True,
        metrics=("bad_share", "good_rps", "utilisation", "mean_batch"),
        shown=Shown("bad_share", "bad requests", 1e2, "%"),
        teacher=Frontrun,
    ),
    Family(
        environment="servegym/ElasticSequenceParallel-v0",
        schema=ElasticScenarioConfig,
        scenario=ElasticScenario,
        source=lambda scenario: {"workload_source": scenario.traffic.source, "held_out": None},
        vector=ElasticSequenceParallelVectorEnv,
        networks=("choice_scorer",),
        num_actions=lambda config: num_actions(int(config.fleet.instances)),
        masked=True,
        metrics=("cost", "attainment", "mean_total_s", "mean_input_s", "mean_output_s"),
        shown=Shown("cost", "mean cost of a request", 1.0, ""),
        teacher=GainAndLoss,
        imitated="all",
        work=prefilled,
    ),
)
"""All of them; no two have a network in common."""


def family_of(network: str) -> Family:
    """The family that a network of NETWORKS is for: a network is made for what it observes."""
    return next(family for family in FAMILIES if network in family.networks)


def family_of_level(level: str) -> Family:
    """The family of the policies that decide this in a serving system, a level of serving/artifact/."""
    return next(family for family in FAMILIES if family.level == level)


def vector_of(family: Family, num_envs: int, scenarios: Sequence[Any]) -> NativeVectorEnv | SuiteVectorEnv:
    """The native environment of one scenario, or of several, which share the episodes as evenly as can be.

    InputError where there are fewer episodes than scenarios.
    """
    if len(scenarios) == 1:
        return family.vector(num_envs, scenarios[0])
    if num_envs < len(scenarios):
        raise InputError(
            f"num_envs = {num_envs}: must be at least the {len(scenarios)} scenarios of the suite"
        )
    shape = family.shape([scenario.config for scenario in scenarios])
    shares = np.diff(np.linspace(0, num_envs, len(scenarios) + 1).astype(np.int64)).tolist()
    return SuiteVectorEnv(
        [family.vector(share, scenario, **shape) for share, scenario in zip(shares, scenarios, strict=True)]
    )


def check_plays(network: str, suite: Suite) -> None:
    """InputError where a network is not made for the environment of a suite, saying which are."""
    if family_of(network).environment == suite.environment:
        return
    fitting = [
        name for family in FAMILIES if family.environment == suite.environment for name in family.networks
    ]
    raise InputError(
        f"agent.network = {network}: learns {family_of(network).environment}, suite {suite.name} is of "
        f"{suite.environment}; must be one of {', '.join(fitting) or 'none'}"
    )


def check_fits(network: str, scenario: Any) -> None:
    """InputError where a network is not made for scenarios of this kind, saying which are."""
    if isinstance(scenario, family_of(network).schema):
        return
    fitting = [name for family in FAMILIES if isinstance(scenario, family.schema) for name in family.networks]
    raise InputError(
        f"agent.network = {network}: learns {family_of(network).environment}, which {scenario.name} is no "
        f"scenario of; must be one of {', '.join(fitting)}"
    )
