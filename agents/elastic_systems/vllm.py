"""vLLM (Kwon et al., SOSP 2023) on one tensor-parallel replica a node.

As LoongServe's artifact runs it (`5-start-api-server.py`): whole prompts first in batches of up to 600,000
tokens, then all decodes, up to 1,024 requests, blocks of 16 tokens, preempted requests computed again. Its
memory is that of LoongServe's instances by default, which for the artifact's TP8 makes 917,000 KV tokens; the
artifact lets it fill 98 % of the GPUs' memory, of which profiling a batch of 600,000 tokens takes a share
that it does not say. Several nodes are replicas behind a balancer that goes round."""

from servegym.agents.elastic_systems.engines import BLOCK, Host, kv_blocks, serve_on_nodes
from servegym.agents.elastic_systems.system import ElasticSystem, ServedRequests
from servegym.agents.parameters import NonNegativeFloat, NonNegativeInt, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.workloads import Workload


@published(
    "elastic_system",
    source="Kwon et al., Efficient Memory Management for Large Language Model Serving with PagedAttention, "
    "SOSP 2023; settings of LoongServe's artifact",
    evidence=Evidence.CODE,
    complexity="O(requests admitted)",
)
def vllm(
    max_num_batched_tokens: PositiveInt = 600_000,
    max_num_seqs: PositiveInt = 1024,
    kv_tokens: NonNegativeInt = 0,
    host_s: NonNegativeFloat = 0.0,
    host_s_per_request: NonNegativeFloat = 0.0,
) -> ElasticSystem:
    """max_num_batched_tokens: of a batch of prompts. max_num_seqs: requests at once. kv_tokens: of a replica;
    0: as much memory as the scenario's instances have. host_s, host_s_per_request: seconds that
    the host adds to an iteration, and to it for each request that gets a token."""

    host = Host(host_s, host_s_per_request)

    def serve(scenario: ElasticScenario, workload: Workload) -> ServedRequests:
        fleet = scenario.config.fleet
        engine = Engine(
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            num_kv_blocks=kv_blocks(fleet, kv_tokens),
            block_size=BLOCK,
            scheduler="vllm_v0",
        )
        return serve_on_nodes(fleet, engine, workload, host)

    return ElasticSystem("vllm", serve)
