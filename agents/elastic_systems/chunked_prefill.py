"""Chunked prefill on one tensor-parallel replica a node, as LightLLM's SplitFuse.

In every iteration all requests go on: decodes with one token each, each prefill with up to `chunk` tokens of
its prompt; decodes take nothing of a chunk (LightLLM's `splitfuse_prepare_decode_inputs`). LoongServe's
artifact sets the chunk by data set: 256, 2,048, 16,384, 2,048 and 512 tokens for ShareGPT, L-Eval, LV-Eval,
their mix and the Zipf mixes; up to 1,024 requests (256 for L-Eval and LV-Eval), batches of up to 600,000
tokens.

Run by our engine of vLLM V1 with that limit on the chunk of a request. It differs: new requests join in any
iteration, LightLLM's in every tenth; they are admitted if their prompt has room, LightLLM's if the peak of
memory to come fits; a request that is alone is prefilled whole.
"""

from servegym.agents.elastic_systems.engines import Host, kv_blocks, serve_on_nodes
from servegym.agents.elastic_systems.system import ElasticSystem, ServedRequests
from servegym.agents.parameters import NonNegativeFloat, NonNegativeInt, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.workloads import Workload

CHUNKS = {"sharegpt": 256, "l_eval": 2048, "lv_eval": 16_384, "mixed": 2048, "zipf": 512}
"""Tokens by lengths of the workload, as in LoongServe's artifact (`5-start-api-server.py`)."""


@published(
    "elastic_system",
    source="LightLLM's SplitFuse, after Holmes et al., DeepSpeed-FastGen, arXiv 2401.08671; settings of "
    "LoongServe's artifact",
    evidence=Evidence.CODE,
    complexity="O(requests that are prefilled)",
)
def chunked_prefill(
    chunk: NonNegativeInt = 0,
    max_num_batched_tokens: PositiveInt = 600_000,
    max_num_seqs: PositiveInt = 1024,
    kv_tokens: NonNegativeInt = 0,
    host_s: NonNegativeFloat = 0.0,
    host_s_per_request: NonNegativeFloat = 0.0,
) -> ElasticSystem:
    """chunk: tokens of a prompt in one iteration; 0: the artifact's for the scenario's lengths.
    max_num_batched_tokens: of an iteration. max_num_seqs: requests at once. kv_tokens: of a replica; 0: as
    much memory as the scenario's instances have. host_s, host_s_per_request: seconds that the host adds to an
    iteration, and to it for each request that gets a token."""

    host = Host(host_s, host_s_per_request)

    def serve(scenario: ElasticScenario, workload: Workload) -> ServedRequests:
        fleet = scenario.config.fleet
        engine = Engine(
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            num_kv_blocks=kv_blocks(fleet, kv_tokens, 1),
            block_size=1,
            scheduler="vllm_v1",
            long_prefill_token_threshold=chunk or CHUNKS[scenario.config.workload.lengths],
        )
        return serve_on_nodes(fleet, engine, workload, host)

    return ElasticSystem("chunked_prefill", serve)
