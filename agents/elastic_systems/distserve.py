"""DistServe (Zhong et al., OSDI 2024): prefill on half of a node's GPUs, decode on the others.

As LoongServe's artifact runs it: one prefill replica of four GPUs, which takes requests in order, up to 128
and 550,000 tokens a batch; decode on four GPUs in two pipeline stages of two, up to 128 requests a batch. KV
moves over NVLink. KV memory is what 82 % of the GPUs' memory leaves beside the weights.

The two stages of decode, which work on two batches at a time, are two replicas of two GPUs here, each with
half of the memory that the stages have together: a stage does half of the layers in half of the time, so that
as many tokens come in a second, each after as long."""

from typing import Annotated

from servegym.agents.elastic_systems.engines import BLOCK, cost_of, gpus_per_node, num_nodes, serve_with
from servegym.agents.elastic_systems.system import ElasticSystem, ServedRequests
from servegym.agents.heuristics import make_router
from servegym.agents.parameters import PositiveInt, within
from servegym.agents.published import Evidence, published
from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import gpu_spec, model_spec
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.sim.llm.cluster.plan import Member
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.workloads import Workload

STAGES = 2
"""Of the decode pipeline."""


@published(
    "elastic_system",
    source="Zhong et al., DistServe, OSDI 2024; settings of LoongServe's artifact",
    evidence=Evidence.CODE,
    complexity="O(requests admitted)",
)
def distserve(
    max_batch: PositiveInt = 128,
    max_tokens: PositiveInt = 550_000,
    memory_share: Annotated[float, within(0, 1)] = 0.82,
) -> ElasticSystem:
    """max_batch: requests of a batch, in either phase. max_tokens: of a batch of prompts. memory_share: of
    the GPUs' memory, for weights and KV."""

    def serve(scenario: ElasticScenario, workload: Workload) -> ServedRequests:
        fleet = scenario.config.fleet
        half = gpus_per_node(fleet) // 2
        if half % STAGES or num_nodes(fleet) > 1:
            raise InputError(
                f"elastic_system distserve: {gpus_per_node(fleet)} GPUs on each of {num_nodes(fleet)} "
                "nodes: must be a "
                f"multiple of {2 * STAGES} on one node"
            )
        model, gpu = model_spec(fleet.model), gpu_spec(fleet.gpu)
        weights = model.parameter_count * model.bytes_per_parameter
        memory = memory_share * half * gpu.hbm_bytes
        kv_tokens = int((memory - weights) / model.kv_bytes_per_token)
        if kv_tokens < STAGES * BLOCK:
            raise InputError(
                f"elastic_system.memory_share = {memory_share}: leaves no KV memory beside {model.name}"
            )

        def member(role: str, gpus: int, kv_tokens: int) -> Member:
            engine = Engine(
                max_num_batched_tokens=max_tokens,
                max_num_seqs=max_batch,
                num_kv_blocks=kv_tokens // BLOCK,
                block_size=BLOCK,
            )
            return Member(
                engine,
                cost_of(fleet, gpus, engine),
                role,
                link_bytes_per_s=(fleet.node_link_bytes_per_s or gpu.nvlink_bytes_per_s) * gpus,
                kv_bytes_per_block=float(BLOCK * model.kv_bytes_per_token),
            )

        decode = member("decode", half // STAGES, kv_tokens // STAGES)
        roles = ["prefill", *["decode"] * STAGES]
        members = [member("prefill", half, kv_tokens), *[decode] * STAGES]
        return serve_with(members, make_router("distserve", roles=roles), workload)

    return ElasticSystem("distserve", serve)
