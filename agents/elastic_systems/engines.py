"""The GPUs of an elastic scenario as replicas of an LLM engine, in the same clock.

The clock of an iteration is that of a single elastic instance of as many GPUs (costmodels/elastic), so that
systems differ by what they do, not by whose kernels they have.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from servegym.agents.elastic_systems.system import ServedRequests
from servegym.agents.heuristics import make_router
from servegym.costmodels.elastic.presets import load_elastic_cost
from servegym.costmodels.elastic.single import single_instance_cost
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.specs import model_spec
from servegym.envs.elastic_scenario.config import ElasticFleetConfig
from servegym.envs.sim.llm.cluster.plan import FleetPlan, Member
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.router import Router
from servegym.envs.workloads import Workload

BLOCK = 16
"""KV tokens of a block: vLLM's, and what the artifact gives DistServe."""


def gpus_per_node(fleet: ElasticFleetConfig) -> int:
    """Those that work for a scenario."""
    return fleet.tensor_parallel * min(fleet.instances, fleet.instances_per_node)


def num_nodes(fleet: ElasticFleetConfig) -> int:
    """Over which the instances of a scenario stand."""
    return -(-fleet.instances // fleet.instances_per_node)


def kv_tokens_on(fleet: ElasticFleetConfig, gpus: int) -> int:
    """KV tokens of a replica of so many GPUs, with as much memory on each as the scenario's instances have.

    What an instance has beside its weights is `kv_tokens`; a larger replica has weights only once.
    """
    model = model_spec(fleet.model)
    weights = model.parameter_count * model.bytes_per_parameter
    of_instance = fleet.kv_tokens * model.kv_bytes_per_token + weights
    return int((of_instance * gpus / fleet.tensor_parallel - weights) / model.kv_bytes_per_token)


def kv_blocks(fleet: ElasticFleetConfig, kv_tokens: int, block: int = BLOCK) -> int:
    """Blocks of a replica on all GPUs of a node: of `kv_tokens`, 0: of what `kv_tokens_on` says.

    InputError where not even one block is left.
    """
    tokens = kv_tokens or kv_tokens_on(fleet, gpus_per_node(fleet))
    if tokens < block:
        raise InputError(f"elastic_system.kv_tokens = {tokens}: must be at least a block of {block}")
    return tokens // block


class Host(NamedTuple):
    """Seconds of the host that an engine adds to an iteration: each, and for each request that gets a
    token."""

    iteration_s: float = 0.0
    request_s: float = 0.0


NO_HOST = Host()


def cost_of(fleet: ElasticFleetConfig, gpus: int, engine: Engine, host: Host = NO_HOST) -> IterationCost:
    """The clock of an engine on so many GPUs. InputError where the clock has no such degree."""
    sizes = engine.max_num_batched_tokens, engine.max_num_seqs
    cost = _clock(fleet.model, fleet.gpu, gpus, fleet.decode_s, *sizes, host.iteration_s)
    return cost._replace(sampler_s=cost.sampler_s + host.request_s * np.arange(len(cost.sampler_s)))


@cache
def _clock(
    model: str, gpu: str, gpus: int, decode_s: float, tokens: int, seqs: int, engine_s: float
) -> IterationCost:
    instance = load_elastic_cost(model, gpu, gpus, 1, 1, decode_s=decode_s, max_requests=seqs)
    return single_instance_cost(instance, tokens, engine_s)


def serve_on_nodes(
    fleet: ElasticFleetConfig, engine: Engine, workload: Workload, host: Host
) -> ServedRequests:
    """One replica on all GPUs of each node; of several nodes requests go to one after the other."""
    member = Member(engine, cost_of(fleet, gpus_per_node(fleet), engine, host))
    return serve_with([member] * num_nodes(fleet), make_router("round_robin"), workload)


def serve_with(members: Sequence[Member], router: Router, workload: Workload) -> ServedRequests:
    """Replicas behind a router. Requests that are too long for them are rejected, not refused."""
    plan = FleetPlan(members)
    fits = plan.served(workload)
    first_token_s, finish_s = np.full((2, workload.num_requests), np.nan)
    if fits.any():
        results = simulate_fleet(workload.take(fits), router, plan)
        first_token_s[fits], finish_s[fits] = results.first_token_s, results.finish_s
    ends = finish_s[fits]
    return ServedRequests(
        arrival_s=workload.arrival_s,
        prompt_tokens=workload.prompt_tokens.astype(np.int64),
        output_tokens=workload.output_tokens.astype(np.int64),
        first_token_s=first_token_s,
        finish_s=finish_s,
        rejected=~fits,
        duration_s=float(ends.max()) if ends.size else 0.0,
    )
