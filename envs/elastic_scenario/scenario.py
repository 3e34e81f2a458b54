"""A scenario of elastic sequence parallelism fixes everything but the policy: fleet, clock, traffic, SLO."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from servegym.costmodels.elastic.presets import load_elastic_cost
from servegym.costmodels.errors import InputError
from servegym.costmodels.transfer import INFINIBAND_LOONGSERVE, NVLINK_A800, Link
from servegym.envs.elastic_scenario.config import ElasticFleetConfig, ElasticScenarioConfig
from servegym.envs.elastic_scenario.traffic import ElasticTraffic
from servegym.envs.sim.elastic.fleet import ElasticFleet
from servegym.envs.sim.elastic.manager import Manager
from servegym.envs.sim.elastic.simulate import ElasticResults, simulate_elastic
from servegym.envs.workloads import Workload


class ElasticScenario:
    """A scenario ready to run. Raises InputError for any value that does not fit the others.

    fleet: the instances. traffic: training episodes and test workloads. weights: of an agent's cost, of
    total, input and output seconds a token and of a late request (`objective`, or 1 over the line of `slo`).
    """

    def __init__(self, config: ElasticScenarioConfig) -> None:
        self.config = config
        self.name = config.name
        self.slo, self.manager = config.slo, config.manager
        self.fleet = _fleet(config.fleet, config.manager.max_requests)
        self.traffic = ElasticTraffic(config.workload, config.episode)
        self.rate_rps = config.workload.rate_rps
        objective, slo = config.objective, config.slo
        self.weights = (
            _weight(objective.total_weight, slo.total_s),
            _weight(objective.input_weight, slo.input_s),
            _weight(objective.output_weight, slo.output_s),
            objective.late_weight,
        )
        whole = int(self.fleet.num_instances > self.fleet.instances_per_node), self.fleet.num_instances
        self._alone = self.fleet.cost.prefill_s[whole]

    def ttft_limit_s(self, prompt_tokens: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """When the first token of prompts, any shape, is late: `max(25 T, 15 s)`, `T` the prefill alone on
        the whole fleet (LoongServe, Fig. 12)."""
        tokens = np.asarray(prompt_tokens, np.float64)
        constant, per_token, per_token_squared = self._alone
        alone_s = constant + per_token * tokens + per_token_squared * tokens**2
        return np.asarray(np.maximum(self.slo.ttft_times * alone_s, self.slo.ttft_least_s))

    def recut(
        self, tensor_parallel: int, instances: int, instances_per_node: int, kv_tokens: int
    ) -> "ElasticScenario":
        """The same GPUs as other instances, with the same traffic and the same limits. InputError as ever."""
        fleet = replace(
            self.config.fleet,
            tensor_parallel=tensor_parallel,
            instances=instances,
            instances_per_node=instances_per_node,
            kv_tokens=kv_tokens,
        )
        other = ElasticScenario(replace(self.config, fleet=fleet))
        other._alone = self._alone
        return other

    def simulate(self, workload: Workload, manager: Manager) -> ElasticResults:
        """Serves requests with the instances under a manager."""
        return simulate_elastic(self.fleet, workload, manager)


def load_elastic_scenario(name: str, overrides: tuple[str, ...] = ()) -> ElasticScenario:
    """The scenario `conf/scenario/<name>.yaml`, with Hydra overrides such as `scenario.fleet.instances=2`.

    Raises InputError for an unknown name, and for a scenario of another kind, listing the known ones.
    """
    from servegym.envs.scenario.compose import compose_scenario_of

    return ElasticScenario(compose_scenario_of(ElasticScenarioConfig, name, overrides))


def _fleet(config: ElasticFleetConfig, max_requests: int) -> ElasticFleet:
    """The instances; their groups may have all the requests that a manager takes in."""
    node, far = config.node_link_bytes_per_s, config.far_link_bytes_per_s
    try:
        cost = load_elastic_cost(
            config.model,
            config.gpu,
            config.tensor_parallel,
            config.instances,
            config.instances_per_node,
            decode_s=config.decode_s,
            max_requests=max_requests,
            node_link=NVLINK_A800 if node is None else Link(node, NVLINK_A800.latency_s),
            far_link=INFINIBAND_LOONGSERVE if far is None else Link(far, INFINIBAND_LOONGSERVE.latency_s),
        )
        return ElasticFleet(config.instances, config.kv_tokens, config.instances_per_node, cost)
    except InputError as error:
        raise InputError(f"scenario.fleet: {error}") from None


def _weight(given: float | None, line_s: float | None) -> float:
    if given is not None:
        return given
    return 0.0 if line_s is None else 1 / line_s
