"""What a group of instances does in an iteration, composed from kernels: ring prefill, multi-master decode.

An instance is a tensor-parallel group of GPUs. LoongServe runs eagerly: one token already takes as long as
its kernels are launched, and more tokens take what kernels take more. That these add up is our reading of
LoongServe's timings (docs/costmodels.md), which are for LWM-7B on A800; elsewhere the same launches are
assumed.
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

PREFILL_LAUNCH_S, RING_LAUNCH_S = 18.6e-3, (38.5e-3 - 18.6e-3) / 3
"""Of a prefill on one instance, and of each more step of its ring: one short request takes 18.6 ms on one GPU
and 38.5 ms on four instances of two (LoongServe's artifact, outputs kept in test/longserve,
3-data-analyse-intro.ipynb and 6-data-analyse-evaluation.ipynb; its README has 32.8 ms of another machine)."""

DECODE_LAUNCH_S = 9.8e-3
"""Of a decode: the same four instances (in the README 12.4 ms; one GPU: 11.4 ms)."""

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

    def kernel_seconds(requests: Floats, tokens: Floats) -> Floats:
        of_request = np.ceil(tokens / instances)
        here = requests * of_request
        attend_s = layer.prefill(of_request, np.zeros_like(of_request), requests)
        send_s = MESSAGE_S + link.seconds(here * model.kv_bytes_per_token / model.num_layers / tensor)
        ring_s = attend_s + (instances - 1) * np.maximum(attend_s, send_s)
        row: dict[str, npt.ArrayLike] = {"tokens": here, "width": model.hidden_size}
        sampled, vocab = np.ceil(requests / instances), math.ceil(model.vocab_size / tensor)
        return np.asarray(
            kernels.seconds("embedding", row)
            + model.num_layers * (layer.linear_seconds(here) + ring_s)
            + layer.communication_seconds(here)
            + kernels.seconds("normalisation", row)
            + kernels.seconds("gemm", {"m": sampled, "n": vocab, "k": model.hidden_size})
            + kernels.seconds("sampling", {"sequences": sampled, "vocab": model.vocab_size})
        )

    layer = Layer(model, kernels, Parallelism(tensor=tensor), None, None)
    least_s = float(kernel_seconds(np.ones(1), np.ones(1))[0])
    launch_s = PREFILL_LAUNCH_S + (instances - 1) * RING_LAUNCH_S
    sizes = np.broadcast_arrays(np.asarray(requests, np.float64), np.asarray(tokens, np.float64))
    return max(launch_s - least_s, 0.0) + kernel_seconds(*sizes)


def ring_link(gpu: GpuSpec, kernels: RooflineModel) -> Link:
    """From a GPU to its neighbour on the same node: the share of NVLink that NCCL's all-gather reaches."""
    return Link(gpu.nvlink_bytes_per_s * kernels.efficiencies["all_gather"].link)


def decode_kernels(gpu: GpuSpec) -> RooflineModel:
    """The calibrated roofline, with decode attention bound by HBM alone.

    No timings of LoongServe's kernels are public. vLLM's, which the roofline is fitted to, fill tiles up and
    give all keys of a head to one SM: with as many KV heads as query heads, one long request takes three
    times what its bytes take. LoongServe's works in two stages and shares the keys out in blocks.
    """
    calibrated = calibrated_roofline(gpu)
    fitted = calibrated.efficiencies["decode_attention"]
    of_memory = Efficiency(hbm=fitted.hbm, launch_s=fitted.launch_s)
    return RooflineModel(gpu, {**calibrated.efficiencies, "decode_attention": of_memory}, calibrated.name)


def group_iteration_cost(model: ModelSpec, gpu: GpuSpec, tensor: int, max_requests: int) -> IterationCost:
    """Decode iterations of one instance."""
    cost = compose_iteration_cost(
        model,
        decode_kernels(gpu),
        max_num_batched_tokens=max_requests,
        max_num_seqs=max_requests,
        max_kv_tokens=MAX_DECODE_KV_TOKENS,
        parallelism=Parallelism(tensor=tensor),
        cpu_overhead_s=0.0,
    )
    sampled_s = cost.lm_head_s[1] + cost.sampler_s[1]
    least_s = cost.linear_s[1] + cost.communication_s[1] + sampled_s + cost.decode_attention_s[1, 0]
    return cost._replace(overhead_s=max(DECODE_LAUNCH_S - float(least_s), 0.0))


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
