"""Ring prefill and multi-master decode: what must hold of any such times, and LoongServe's published ones."""

import numpy as np
import pytest

from servegym.costmodels.elastic.compose import (
    DECODE_LAUNCH_S,
    MESSAGE_S,
    PREFILL_LAUNCH_S,
    RING_LAUNCH_S,
    exchange_seconds,
    group_iteration_cost,
    ring_prefill_seconds,
)
from servegym.costmodels.iterations.composer import Parallelism, compose_iteration_cost
from servegym.costmodels.iterations.cost import (
    decode_attention_seconds,
    decode_seconds,
    prefill_attention_seconds,
    step_seconds,
)
from servegym.costmodels.operators.calibrated import calibrated_roofline
from servegym.costmodels.specs import GPUS, MODELS
from servegym.costmodels.transfer import Link

MODEL, GPU = MODELS["lwm_7b"], GPUS["a800_sxm"]
KERNELS = calibrated_roofline(GPU)
NVLINK = Link(GPU.nvlink_bytes_per_s)


def prefill(instances, requests, tokens, tensor=2, link=NVLINK):
    return ring_prefill_seconds(
        MODEL, KERNELS, tensor=tensor, instances=instances, requests=requests, tokens=tokens, link=link
    )


@pytest.mark.parametrize("tensor", [1, 2, 8])
def test_one_instance_is_the_composer(tensor):
    """Beside launches. It adds attention up request by request; one call for two prompts saves a little."""
    cost = compose_iteration_cost(
        MODEL,
        KERNELS,
        parallelism=Parallelism(tensor=tensor),
        max_num_batched_tokens=20_000,
        max_num_seqs=2,
        max_kv_tokens=20_000,
        cpu_overhead_s=0.0,
    )
    least = step_seconds(cost, 1, 1) + prefill_attention_seconds(cost, 1, 0)
    launch_s = max(PREFILL_LAUNCH_S - least, 0.0)
    alone = launch_s + step_seconds(cost, 16_000, 1) + prefill_attention_seconds(cost, 16_000, 0)
    assert prefill(1, 1, 16_000, tensor) == pytest.approx(alone, rel=0.01)
    two = launch_s + step_seconds(cost, 16_000, 2) + 2 * prefill_attention_seconds(cost, 8000, 0)
    assert 0.95 * two < prefill(1, 2, 8000, tensor) < 1.001 * two


def test_long_prompts_are_shared_out():
    """Of 400,000 tokens k instances take nearly the k-th part, and never less than it."""
    alone, *shared = (float(prefill(k, 1, 400_000)) for k in (1, 2, 4, 8))
    for k, seconds in zip((2, 4, 8), shared, strict=True):
        assert 0.95 * alone / k < seconds < 1.1 * alone / k


def test_a_slow_link_is_all_that_counts():
    """Each of 32 layers sends k - 1 times the keys and values of a k-th of the prompt."""
    slow = Link(1e6)
    sent_bytes = 3 * 100_000 / 4 * MODEL.kv_bytes_per_token / 2
    assert prefill(4, 1, 100_000, link=slow) == pytest.approx(sent_bytes / 1e6, rel=0.01)


def test_what_is_hidden_behind_attention_takes_no_time():
    """At 400,000 tokens NVLink is as good as a link without end."""
    assert prefill(4, 1, 400_000, link=Link(1e15)) == pytest.approx(prefill(4, 1, 400_000), rel=1e-6)


@pytest.mark.parametrize("instances", [1, 2, 4])
def test_one_token_takes_its_launches(instances):
    assert prefill(instances, 1, 1) == pytest.approx(PREFILL_LAUNCH_S + (instances - 1) * RING_LAUNCH_S)


def test_more_take_what_kernels_take_more():
    cost = group_iteration_cost(MODEL, GPU, 2, 64)
    bare = cost._replace(overhead_s=0.0)
    assert decode_seconds(cost, 1, 1) == pytest.approx(DECODE_LAUNCH_S, rel=1e-3)
    for decodes, kv_tokens in ((1, 400_000), (64, 200_000)):
        more = decode_seconds(bare, decodes, kv_tokens) - decode_seconds(bare, 1, 1)
        assert decode_seconds(cost, decodes, kv_tokens) == pytest.approx(DECODE_LAUNCH_S + more, rel=1e-3)
    small = group_iteration_cost(MODEL, GPU, 1, 64)  # one GPU: the weights alone take longer
    assert small.overhead_s == 0


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_decode_attention_reads_keys_and_values(tensor):
    """At a share of the HBM's rate, however many requests they belong to."""
    cost = group_iteration_cost(MODEL, GPU, tensor, 64)
    shares = []
    for decodes in (1, 16, 64):
        seconds = decode_attention_seconds(cost, decodes, 400_000)
        read_bytes = 400_000 * MODEL.kv_bytes_per_token / tensor
        shares.append(read_bytes / seconds / GPU.hbm_bytes_per_s)
    assert 0.75 < min(shares) <= max(shares) < 0.83
    assert max(shares) < 1.01 * min(shares)


def test_exchange_by_hand():
    """Llama-2-7B: 32 heads of 128 numbers of 2 bytes out, the same back with two float32 a head."""
    seconds = exchange_seconds(MODEL, 2, 4, Link(1e9, 1e-6))
    there, back = 3 * 32 * 128 * 2 / 2 / 1e9, 3 * (32 * 128 * 2 + 32 * 8) / 2 / 1e9
    assert seconds[3] == pytest.approx(32 * (there + back + 2 * (1e-6 + MESSAGE_S)))
    assert seconds[0] == 0
    assert (np.diff(seconds) > 0).all()
