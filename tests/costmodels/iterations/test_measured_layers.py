"""Tables from a layer profile: a made-up profile with a known law must give that law back."""

import itertools

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import (
    decode_attention_seconds,
    mixed_decode_attention_seconds,
    prefill_attention_seconds,
    step_seconds,
)
from servegym.costmodels.iterations.measured_layers import average_decode_skew, compile_from_layer_profile
from servegym.costmodels.kernels.llmservingsim import Curve, LayerProfile, MixedAttention, Skew
from servegym.costmodels.specs import MODELS

LAYERS = {"embedding": 1.0, "layernorm": 2.0, "qkv_proj": 4.0, "down_proj": 8.0, "final_layernorm": 16.0}
LIMITS = {"num_layers": 10, "max_num_batched_tokens": 64, "max_num_seqs": 8, "cpu_overhead_s": 0.5}


def attention_s(chunk, chunk_history, decodes, history):
    """Prefill by its pairs; decodes by their KV tokens, twice that beside a chunk, and by pairs with it."""
    prefill = 1e-3 * chunk * (chunk_history + chunk)
    if chunk == 0:
        return 1e-2 * decodes * history
    return prefill + 2e-2 * decodes * history + 3e-4 * decodes * chunk


def profile() -> LayerProfile:
    tokens = np.array([1, 16, 64])
    curves = {name: Curve(tokens, scale * (1e-3 + 1e-4 * tokens)) for name, scale in LAYERS.items()}
    sequences = np.array([1, 8])
    calls = [
        call
        for call in itertools.product((0, 1, 4, 16, 64), (0, 32, 64), (0, 1, 2, 8), (0, 16, 256))
        if (call[2] > 0) == (call[3] > 0) and (call[0] > 0 or (call[2] > 0 and call[1] == 0))
    ]
    columns = (np.array(column) for column in zip(*calls, strict=True))
    return LayerProfile(
        model=MODELS["llama_3_1_8b"],
        device="made up",
        software="none",
        dtype="bf16",
        tensor_parallel=1,
        source="made up",
        arguments={},
        dense=curves,
        per_sequence={
            "lm_head": Curve(sequences, 0.1 * sequences),
            "sampler": Curve(sequences, np.full(2, 0.01)),
        },
        attention=MixedAttention(
            *columns, np.array([attention_s(*call) for call in calls]), np.arange(len(calls))
        ),
        skew=None,
    )


@pytest.fixture(scope="module")
def cost():
    return compile_from_layer_profile(profile(), **LIMITS)


@pytest.mark.parametrize("tokens", [1, 10, 64])
def test_layers_are_counted_as_often_as_the_model_has_them(cost, tokens):
    calls = 1 + 16 + 10 * (2 * 2 + 4 + 8)  # embedding and final norm once, two norms a layer
    assert step_seconds(cost, tokens, 4) == pytest.approx(
        0.5 + calls * (1e-3 + 1e-4 * tokens) + 0.1 * 4 + 0.01
    )


@pytest.mark.parametrize(("chunk", "history"), [(1, 0), (4, 32), (16, 64), (64, 32), (16, 50)])
def test_prefill_meets_the_measured_points(cost, chunk, history):
    expected = 10 * attention_s(chunk, history, 0, 0)
    assert prefill_attention_seconds(cost, chunk, history) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("decodes", "history"), [(1, 16), (2, 256), (8, 100), (4, 256), (2, 1000)])
def test_decodes_take_what_was_measured_alone_and_beside_a_chunk(cost, decodes, history):
    kv_tokens = decodes * history
    alone = 10 * attention_s(0, 0, decodes, history)
    assert decode_attention_seconds(cost, decodes, kv_tokens) == pytest.approx(alone, rel=0.01)
    added = 10 * (attention_s(32, 0, decodes, history) - attention_s(32, 0, 0, 0))
    assert mixed_decode_attention_seconds(cost, decodes, kv_tokens, 32) == pytest.approx(added, rel=0.01)


def test_unequal_histories_slow_decodes_and_nothing_else(cost):
    skewed = compile_from_layer_profile(profile(), **LIMITS, decode_skew=1.25)
    assert decode_attention_seconds(skewed, 8, 800) == pytest.approx(
        1.25 * decode_attention_seconds(cost, 8, 800)
    )
    assert prefill_attention_seconds(skewed, 16, 8) == prefill_attention_seconds(cost, 16, 8)
    assert step_seconds(skewed, 16, 8) == step_seconds(cost, 16, 8)


def test_average_skew_is_over_calls_without_prefill():
    chunk, ones = np.array([0, 0, 0, 512]), np.ones(4, np.int64)
    skew = Skew(chunk, ones, ones, ones, ones, ones, np.full(4, 2.0), np.full(4, 8.0), np.array([2, 3, 4, 9]))
    assert average_decode_skew(skew) == 1.5


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"max_num_batched_tokens": 65}, "max_num_batched_tokens is 65, must be at most 64"),
        ({"max_num_seqs": 9}, "max_num_seqs is 9, must be at most 8"),
    ],
)
def test_limits_beyond_the_profile_are_refused(limit, message):
    with pytest.raises(InputError, match=message):
        compile_from_layer_profile(profile(), **(LIMITS | limit))
