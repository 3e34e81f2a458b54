"""DeepSpeed-MII's Dynamic SplitFuse on one tensor-parallel replica a node.

Every iteration has the same number of tokens where there is work for it: first the decodes, then prompts, the
last of them cut to what is left. Limits are DeepSpeed's defaults: 768 tokens, 512 requests, blocks of 128
tokens. LoongServe's artifact runs it on ShareGPT only, as it fails on prompts above 32,000 tokens; ours does
not.

Run by our engine of Sarathi-Serve, which has the same rule.
"""

from servegym.agents.elastic_systems.engines import Host, kv_blocks, serve_on_nodes
from servegym.agents.elastic_systems.system import ElasticSystem, ServedRequests
from servegym.agents.parameters import NonNegativeFloat, NonNegativeInt, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.workloads import Workload

BLOCK = 128


@published(
    "elastic_system",
    source="Holmes et al., DeepSpeed-FastGen: High-throughput Text Generation for LLMs via MII and "
    "DeepSpeed-Inference, arXiv 2401.08671; defaults of its code",
    evidence=Evidence.SECOND_HAND,
    complexity="O(requests that are prefilled)",
)
def deepspeed_mii(
    max_num_batched_tokens: PositiveInt = 768,
    max_num_seqs: PositiveInt = 512,
    kv_tokens: NonNegativeInt = 0,
    host_s: NonNegativeFloat = 0.0,
    host_s_per_request: NonNegativeFloat = 0.0,
) -> ElasticSystem:
    """max_num_batched_tokens: of an iteration. max_num_seqs: requests at once. kv_tokens: of a replica; 0: as
    much memory as the scenario's instances have. host_s, host_s_per_request: seconds that
    the host adds to an iteration, and to it for each request that gets a token."""

    host = Host(host_s, host_s_per_request)

    def serve(scenario: ElasticScenario, workload: Workload) -> ServedRequests:
        fleet = scenario.config.fleet
        engine = Engine(
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            num_kv_blocks=kv_blocks(fleet, kv_tokens, BLOCK),
            block_size=BLOCK,
            scheduler="sarathi",
        )
        return serve_on_nodes(fleet, engine, workload, host)

    return ElasticSystem("deepspeed_mii", serve)
