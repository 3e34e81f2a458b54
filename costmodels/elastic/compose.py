"""What a group of instances does in an iteration, composed from kernels: ring prefill, multi-master decode.

An instance is a tensor-parallel group of GPUs. LoongServe runs eagerly, so that no iteration is over before
its kernels are launched: times are at least those of LoongServe's smallest run.
"""

import math

import numpy as np
import numpy.typing as npt

from servegym.costmodels.iterations.composer import Layer, Parallelism, compose_iteration_cost
from servegym.costmodels.iterations.cost import Floats, IterationCost
from servegym.costmodels.operators.calibrated import calibrated_roofline
from servegym.costmodels.operators.roofline import Efficiency, RooflineModel
from servegym.costmodels.specs import GpuSpec, ModelSpec
from servegym.costmodels.transfer import Link

PREFILL_LAUNCH_S, DECODE_LAUNCH_S = 32.8e-3, 12.4e-3
"""What an iteration lasts at least: its launches. One request of 100 tokens on four instances of two A800
GPUs takes these times in LoongServe's artifact (docs/artifact-eval/README.md), some times what kernels
take. That they are the same for every degree, model and GPU is our assumption."""

MESSAGE_S = 14e-6
"""Of a message between GPUs, beside its link: NCCL's smallest collectives on A100 (calibrated profile)."""

MAX_DECODE_KV_TOKENS = 1_000_000
"""What tables of decode attention reach; beyond they are continued."""


def ring_prefill_seconds(
    model: ModelSpec,
    kernels: RooflineModel,
    *,
    tensor: int,
    instances: int,
    requests: npt.ArrayLike,
    tokens: npt.ArrayLike,
    link: Link,
) -> Floats:
    """(N,) seconds of N prefills, each of so many `requests` of so many `tokens` on `instances` instances.

    Striped ring attention (Brandon et al., Striped Attention, 2023): an instance has every `instances`-th
    token of each request, so that all have the same work. In each layer it does the linear part for its
    tokens, then attends in `instances` steps, causal in each, while all but the last step send its keys and
    values to the neighbour: such a step lasts as long as the longer of the two. The LM head sees the last
    tokens, spread over the instances. `link`: from a GPU to its neighbour, in one direction.
    """
    requests, tokens = np.broadcast_arrays(np.asarray(requests, np.float64), np.asarray(tokens, np.float64))
    layer = Layer(model, kernels, Parallelism(tensor=tensor), None, None)
    of_request = np.ceil(tokens / instances)
    here = requests * of_request
    attend_s = layer.prefill(of_request, np.zeros_like(of_request), requests)
    send_s = MESSAGE_S + link.seconds(here * model.kv_bytes_per_token / model.num_layers / tensor)
    ring_s = attend_s + (instances - 1) * np.maximum(attend_s, send_s)
    row: dict[str, npt.ArrayLike] = {"tokens": here, "width": model.hidden_size}
    sampled = np.ceil(requests / instances)
    seconds = (
        kernels.seconds("embedding", row)
        + model.num_layers * (layer.linear_seconds(here) + ring_s)
        + layer.communication_seconds(here)
        + kernels.seconds("normalisation", row)
        + kernels.seconds(
            "gemm", {"m": sampled, "n": math.ceil(model.vocab_size / tensor), "k": model.hidden_size}
        )
        + kernels.seconds("sampling", {"sequences": sampled, "vocab": model.vocab_size})
    )
    return np.asarray(np.maximum(seconds, PREFILL_LAUNCH_S))


def decode_kernels(gpu: GpuSpec) -> RooflineModel:
    """The calibrated roofline, with decode attention bound by HBM alone.

    No timings of LoongServe's kernels are public. vLLM's, which the roofline is fitted to, fill tiles up and
    give all keys of a head to one SM: with as many KV heads as query heads, one long request takes three
    times what its bytes take. LoongServe's decode in two stages, the keys shared out in blocks.
    """
    calibrated = calibrated_roofline(gpu)
    fitted = calibrated.efficiencies["decode_attention"]
    of_memory = Efficiency(hbm=fitted.hbm, launch_s=fitted.launch_s)
    return RooflineModel(gpu, {**calibrated.efficiencies, "decode_attention": of_memory}, calibrated.name)


def group_iteration_cost(model: ModelSpec, gpu: GpuSpec, tensor: int, max_requests: int) -> IterationCost:
    """Decode iterations of one instance.

    Where an iteration would be over before its kernels are launched, decode attention lasts what is lacking:
    the whole takes `max(launches, kernels)`.
    """
    cost = compose_iteration_cost(
        model,
        decode_kernels(gpu),
        max_num_batched_tokens=max_requests,
        max_num_seqs=max_requests,
        max_kv_tokens=MAX_DECODE_KV_TOKENS,
        parallelism=Parallelism(tensor=tensor),
        cpu_overhead_s=0.0,
    )
    step_s = cost.linear_s + cost.communication_s + cost.lm_head_s + cost.sampler_s
    waiting_s = np.maximum(DECODE_LAUNCH_S - step_s, 0.0)[:, None]
    waiting_s[0] = 0.0
    return cost._replace(decode_attention_s=np.maximum(cost.decode_attention_s, waiting_s))


def exchange_seconds(model: ModelSpec, tensor: int, max_requests: int, link: Link) -> Floats:
    """(max_requests + 1,) seconds in which masters send queries to all members and get attention back.

    In each layer a message each way: a query for each head, and its output with two numbers of its softmax
    (the largest score, and the sum) in float32. All requests are counted for each member, which is most.
    """
    requests = np.arange(max_requests + 1.0)
    query_bytes = model.num_heads * model.head_dim * model.bytes_per_parameter
    softmax_bytes = model.num_heads * 2 * 4
    queries_s = link.seconds(requests * query_bytes / tensor)
    answers_s = link.seconds(requests * (query_bytes + softmax_bytes) / tensor)
    return np.asarray(model.num_layers * (2 * MESSAGE_S * (requests > 0) + queries_s + answers_s))
