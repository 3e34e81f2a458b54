"""Composition of kernels into iterations: counts of calls, shards, int4 weights, and the roofline."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import compile_iteration_cost
from servegym.costmodels.iterations.composer import Parallelism, compose_iteration_cost
from servegym.costmodels.iterations.cost import (
    IterationCost,
    decode_attention_seconds,
    decode_seconds,
    prefill_attention_seconds,
    step_seconds,
)
from servegym.costmodels.operators.roofline import RooflineModel
from servegym.costmodels.specs import GPUS, MODELS, ModelSpec

H100 = GPUS["h100_sxm"]
LLAMA_8B = MODELS["llama_3_1_8b"]
LIMITS = {"max_num_batched_tokens": 512, "max_num_seqs": 64, "max_kv_tokens": 100_000}


class Made:
    """Every kernel by a law of its own; attention launches in 4 s and takes its pairs or tokens."""

    name = "made up"

    def seconds(self, operator: str, shapes: Mapping[str, Any], **dtypes: str) -> np.ndarray:
        s = {name: np.asarray(value, float) for name, value in shapes.items()}
        if operator == "prefill_attention":
            pairs = s["tokens"] * s["history"] + s["tokens"] * (s["tokens"] + 1) / 2
            return 4 + 1e-2 * (pairs - 1)
        if operator == "decode_attention":
            return 4 + 1e-3 * (s["batch"] * s["history"] - 1)
        if operator == "gemm":
            return s["n"] * s["k"] + 0 * s["m"]
        if operator == "moe":
            return 7.0 * s["topk"] / s["ep"] / s["tp"] + 0 * s["tokens"]
        if operator in ("all_reduce", "reduce_scatter", "all_gather", "send_recv"):
            return s["bytes"] * {"all_reduce": 1.0, "reduce_scatter": 0.25, "all_gather": 0.5}.get(
                operator, 8.0
            )
        if operator == "sampling":
            return 1e-3 * s["sequences"] * s["vocab"]
        return 1e-4 * s["tokens"] * s["width"]


SMALL = ModelSpec("small", 4, 32, 8, 2, 4, 64, 100)
EXPERTS = ModelSpec("experts", 4, 32, 8, 2, 4, 64, 100, "bfloat16", 8, 2)


def compose(model: ModelSpec, **arguments: Any) -> IterationCost:
    return compose_iteration_cost(model, Made(), cpu_overhead_s=0.5, **(LIMITS | arguments))


def test_every_kernel_is_counted_as_often_as_it_runs() -> None:
    cost = compose(SMALL)
    gemms = 48 * 32 + 32 * 32 + 128 * 32 + 32 * 64  # QKV 8 + 2 * 2 heads of 4, output, gate and up, down
    elementwise = 2 * 32 + 40 + 64  # two norms, rotary of 10 heads, activation
    for tokens in (1, 512):
        layer = gemms + 1e-4 * tokens * elementwise + 4
        assert cost.linear_s[tokens] == pytest.approx(4 * layer + 2 * 1e-4 * tokens * 32)
    assert step_seconds(cost, 64, 8) == pytest.approx(0.5 + cost.linear_s[64] + 100 * 32 + 1e-3 * 8 * 100)
    assert prefill_attention_seconds(cost, 100, 1) == pytest.approx(4 * 1e-2 * (100 + 5050 - 1), rel=0.01)
    assert decode_attention_seconds(cost, 8, 8000) == pytest.approx(4 * 1e-3 * (8000 - 1))
    assert cost.communication_s.max() == 0


def test_shards_and_messages() -> None:
    spread = compose(SMALL, parallelism=Parallelism(tensor=2, pipeline=2))
    gemms = 24 * 32 + 32 * 16 + 64 * 32 + 32 * 32
    assert spread.linear_s[1] == pytest.approx(4 * (gemms + 1e-4 * (64 + 20 + 32) + 4) + 2 * 1e-4 * 32)
    sent = 2 * 32 * 10
    assert spread.communication_s[10] == pytest.approx(4 * 2 * sent + 8.0 * sent)
    sequence = compose(SMALL, parallelism=Parallelism(tensor=2, sequence=True))
    assert sequence.communication_s[10] == pytest.approx(4 * 2 * 0.75 * sent)
    norms_saved = compose(SMALL, parallelism=Parallelism(tensor=2)).linear_s[100] - sequence.linear_s[100]
    assert norms_saved == pytest.approx(4 * 2 * 1e-4 * 50 * 32)


def test_experts_take_the_place_of_the_feed_forward() -> None:
    dense, experts = compose(SMALL), compose(EXPERTS)
    replaced = 128 * 32 + 32 * 64 + 1e-4 * 64
    assert experts.linear_s[1] - dense.linear_s[1] == pytest.approx(4 * (7.0 * 2 + 8 * 32 - replaced))
    halves = [compose(EXPERTS, parallelism=Parallelism(2, expert=expert)).linear_s[1] for expert in (1, 2)]
    assert halves[0] == pytest.approx(halves[1])


def test_unequal_histories_slow_decodes_alone() -> None:
    even, skewed = compose(SMALL), compose(SMALL, decode_skew=1.5)
    assert np.allclose(skewed.decode_attention_s, 1.5 * even.decode_attention_s)
    assert np.array_equal(skewed.prefill_s_per_pair, even.prefill_s_per_pair)


@pytest.mark.parametrize(
    ("parallelism", "message"),
    [
        (Parallelism(tensor=3), "num_heads of small is 8, must be a multiple of 3"),
        (Parallelism(tensor=2, expert=4), "expert is 4, must divide tensor 2"),
        (Parallelism(pipeline=3), "num_layers of small is 4, must be a multiple of 3"),
        (Parallelism(tensor=0), "tensor is 0"),
    ],
)
def test_impossible_shards_are_refused(parallelism: Parallelism, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose(SMALL, parallelism=parallelism)


def test_int4_weights_are_fast_while_memory_binds_and_not_beyond() -> None:
    bf16, int4 = (
        compose_iteration_cost(LLAMA_8B, RooflineModel(H100), weight_dtype=dtype, **LIMITS)
        for dtype in ("bf16", "int4")
    )
    launches_s = 32 * 9 * 3e-6
    gain = [(bf16.linear_s[n] - launches_s) / (int4.linear_s[n] - launches_s) for n in (1, 16, 512)]
    assert gain[0] > 3
    assert gain[1] > 3
    assert gain[2] < 1.5


def test_the_bare_roofline_is_a_lower_bound_near_the_fitted_one() -> None:
    fitted = compile_iteration_cost(LLAMA_8B, H100, **LIMITS)
    bare = compose_iteration_cost(LLAMA_8B, RooflineModel(H100), **LIMITS)
    for decodes, kv_tokens in ((1, 1000), (16, 16_000), (64, 64_000)):
        ratio = decode_seconds(bare, decodes, kv_tokens) / decode_seconds(fitted, decodes, kv_tokens)
        assert 0.7 < ratio < 1


def test_few_experts_are_read_for_one_token_and_all_for_many() -> None:
    mixtral = MODELS["mixtral_8x7b"]
    cost = compose_iteration_cost(mixtral, RooflineModel(H100), parallelism=Parallelism(2), **LIMITS)
    expert_s = 3 * 4096 * 14336 * 2 / 2 / H100.hbm_bytes_per_s
    assert cost.linear_s[64] - cost.linear_s[1] == pytest.approx(32 * 6 * expert_s, rel=0.05)
