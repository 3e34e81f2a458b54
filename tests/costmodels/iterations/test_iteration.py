import dataclasses

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import (
    compile_iteration_cost,
    kv_capacity_blocks,
    linear_iteration_cost,
)
from servegym.costmodels.iterations.cost import (
    decode_attention_seconds,
    decode_seconds,
    prefill_attention_seconds,
    step_seconds,
    validate_iteration_cost,
)
from servegym.costmodels.operators.roofline import Roofline
from servegym.costmodels.specs import GPUS, MODELS

H100, A100 = GPUS["h100_sxm"], GPUS["a100_sxm"]
LLAMA_8B, LLAMA_7B = MODELS["llama_3_1_8b"], MODELS["llama_2_7b"]
LIMITS = {"max_num_batched_tokens": 2048, "max_num_seqs": 256, "max_kv_tokens": 100_000}
NO_LAUNCH = dataclasses.replace(
    Roofline(), gemm_launch_s=0.0, attention_launch_s=0.0, elementwise_launch_s=0.0, all_reduce_launch_s=0.0
)


@pytest.fixture(scope="module")
def llama_8b():
    return compile_iteration_cost(LLAMA_8B, H100, **LIMITS)


# --- compiled from the roofline --------------------------------------------------------------------------


def test_flops_of_a_token_are_twice_the_parameters():
    # Memory and elementwise work free of charge: what is left of a large batch is its GEMMs.
    compute = dataclasses.replace(NO_LAUNCH, gemm_compute=1.0)
    gpu = dataclasses.replace(H100, hbm_bytes_per_s=1e30)
    cost = compile_iteration_cost(LLAMA_7B, gpu, roofline=compute, cpu_overhead_s=0.0, **LIMITS)
    flops = step_seconds(cost, 1, 1) * gpu.peak("bfloat16")
    assert flops == pytest.approx(2 * LLAMA_7B.parameter_count, rel=0.02)  # but the embedding, a table
    embedding = LLAMA_7B.vocab_size * LLAMA_7B.hidden_size
    norms = (2 * LLAMA_7B.num_layers + 1) * LLAMA_7B.hidden_size
    assert flops == pytest.approx(2 * (LLAMA_7B.parameter_count - embedding - norms), rel=1e-9)


def test_small_decode_step_streams_the_weights():
    ideal = dataclasses.replace(NO_LAUNCH, gemm_memory=1.0)
    cost = compile_iteration_cost(LLAMA_8B, H100, roofline=ideal, cpu_overhead_s=0.0, **LIMITS)
    read = LLAMA_8B.weight_bytes - 2 * LLAMA_8B.vocab_size * LLAMA_8B.hidden_size  # no embedding table
    assert decode_seconds(cost, 1, 0) == pytest.approx(read / H100.hbm_bytes_per_s, rel=0.01)


@pytest.mark.parametrize(
    ("model", "num_decodes", "context", "measured_s", "tolerance"),
    [
        (LLAMA_7B, 1, 260, 6.3e-3, 0.03),  # vLLM 0.11, spans of single requests
        (LLAMA_8B, 8, 1280, 7.42e-3, 0.10),  # TensorRT-LLM 1.0, 1024 in 512 out, concurrency 8
    ],
)
def test_decode_on_h100_is_near_what_was_measured(model, num_decodes, context, measured_s, tolerance):
    cost = compile_iteration_cost(model, H100, **LIMITS)
    assert decode_seconds(cost, num_decodes, num_decodes * context) == pytest.approx(
        measured_s, rel=tolerance
    )


@pytest.mark.parametrize("tensor_parallel", [1, 4])
def test_prefill_table_meets_the_roofline_everywhere(tensor_parallel):
    limits = {**LIMITS, "max_num_batched_tokens": 8192}
    for model, gpu in ((LLAMA_8B, H100), (LLAMA_7B, A100)):
        cost = compile_iteration_cost(model, gpu, tensor_parallel=tensor_parallel, **limits)
        random = np.random.default_rng(0)
        chunks = np.rint(np.geomspace(1, 8192, 300))
        histories = random.permutation(
            np.concatenate([np.zeros(100), np.rint(np.geomspace(1, 100_000, 200))])
        )
        heads = (model.num_heads // tensor_parallel, model.num_kv_heads // tensor_parallel, model.head_dim)
        direct = model.num_layers * Roofline().prefill_attention_seconds(
            gpu, model.dtype, *heads, chunks, histories
        )
        table = [
            prefill_attention_seconds(cost, int(c), int(h)) for c, h in zip(chunks, histories, strict=True)
        ]
        np.testing.assert_allclose(table, direct, rtol=0.02)


def test_decode_table_meets_the_roofline_exactly(llama_8b):
    for decodes, kv in ((1, 0), (7, 12_345), (256, 99_999), (256, 400_000)):
        direct = 32 * Roofline().decode_attention_seconds(H100, "bfloat16", 32, 8, 128, decodes, kv)
        assert decode_attention_seconds(llama_8b, decodes, kv) == pytest.approx(direct, rel=1e-12)


def test_nothing_is_charged_that_was_not_done(llama_8b):
    assert step_seconds(llama_8b, 0, 0) == llama_8b.overhead_s
    assert not llama_8b.communication_s.any()
    assert decode_attention_seconds(llama_8b, 0, 1000) == 0.0
    without = compile_iteration_cost(LLAMA_8B, H100, cpu_overhead_s=0.0, **LIMITS)
    assert step_seconds(llama_8b, 100, 3) - step_seconds(without, 100, 3) == pytest.approx(0.5e-3)


def test_times_grow_with_work(llama_8b):
    for table in (llama_8b.linear_s, llama_8b.lm_head_s, llama_8b.sampler_s):
        assert np.all(np.diff(table) > 0)
    chunk_s = [prefill_attention_seconds(llama_8b, c, 0) for c in range(1, 2049)]
    assert np.all(np.diff(chunk_s) > 0)
    history_s = [prefill_attention_seconds(llama_8b, 64, h) for h in range(0, 100_000, 97)]
    assert np.all(np.diff(history_s) > 0)


def test_tensor_parallelism_shares_the_work_and_pays_for_communication():
    single = compile_iteration_cost(LLAMA_8B, H100, roofline=NO_LAUNCH, **LIMITS)
    four = compile_iteration_cost(LLAMA_8B, H100, roofline=NO_LAUNCH, tensor_parallel=4, **LIMITS)
    # Norms and inputs are not shared out, weights and heads are.
    assert 0.25 < four.linear_s[1] / single.linear_s[1] < 0.27
    assert decode_attention_seconds(four, 8, 80_000) == pytest.approx(
        decode_attention_seconds(single, 8, 80_000) / 4
    )
    # Two all-reduces a layer of 2048 tokens x 4096 x 2 bytes, each sends 2 * 3/4 of it
    sent = 64 * 1.5 * 2048 * 4096 * 2
    assert four.communication_s[2048] == pytest.approx(sent / (0.6 * 450e9))


def test_kv_capacity_by_hand():
    free = 0.9 * 80 * 2**30 - 16_060_522_496 - 3 * 2**30
    assert kv_capacity_blocks(LLAMA_8B, H100) == int(free // (16 * 131_072)) - 1  # vLLM sets one aside
    # Two GPUs share the weights once and reserve twice.
    free = 2 * (0.9 * 80 * 2**30 - 3 * 2**30) - 16_060_522_496
    assert (
        kv_capacity_blocks(LLAMA_8B, H100, tensor_parallel=2, block_size=32)
        == int(free // (32 * 131_072)) - 1
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs is 0"),
        ({"max_num_batched_tokens": 255}, "max_num_batched_tokens is 255.*max_num_seqs 256"),
        ({"max_kv_tokens": 0}, "max_kv_tokens is 0"),
        ({"tensor_parallel": 0}, "tensor_parallel is 0"),
        ({"tensor_parallel": 16}, "tensor_parallel is 16, must divide num_kv_heads 8 of llama_3_1_8b"),
        ({"cpu_overhead_s": -1.0}, r"overhead_s holds -1\.0"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        compile_iteration_cost(LLAMA_8B, H100, **(LIMITS | arguments))


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="llama_3_1_70b does not fit on 1 x h100_sxm"):
        kv_capacity_blocks(MODELS["llama_3_1_70b"], H100)
    assert kv_capacity_blocks(MODELS["llama_3_1_70b"], H100, tensor_parallel=4) > 0
    with pytest.raises(InputError, match=r"memory_fraction is 1\.5"):
        kv_capacity_blocks(LLAMA_8B, H100, memory_fraction=1.5)


# --- evaluation of any table -----------------------------------------------------------------------------


def test_linear_cost_is_the_formula_it_promises():
    cost = linear_iteration_cost(
        max_num_batched_tokens=64, max_num_seqs=8,
        overhead_s=0.5, per_token_s=0.25, per_kv_token_s=0.01, per_prefill_pair_s=1e-3,
    )  # fmt: skip
    assert step_seconds(cost, 10, 3) == 3.0
    assert decode_seconds(cost, 8, 1000) == pytest.approx(0.5 + 8 * 0.25 + 10.0)
    assert decode_attention_seconds(cost, 0, 1000) == 0.0
    assert prefill_attention_seconds(cost, 4, 100) == pytest.approx(1e-3 * (101 + 102 + 103 + 104))


def test_prefill_is_bilinear_between_knots_and_constant_beyond():
    cost = linear_iteration_cost(max_num_batched_tokens=64, max_num_seqs=8, overhead_s=1.0)._replace(
        prefill_chunk_knots=np.array([2.0, 4.0, 10.0]),
        prefill_history_knots=np.array([10.0, 30.0]),
        prefill_s_per_pair=np.array([[1.0, 2.0], [3.0, 8.0], [5.0, 0.0]]),
    )
    validate_iteration_cost(cost)

    def per_pair(chunk, history):
        return prefill_attention_seconds(cost, chunk, history) / sum(history + i for i in range(1, chunk + 1))

    assert per_pair(2, 10) == 1.0
    assert per_pair(4, 30) == 8.0
    assert per_pair(3, 20) == pytest.approx((1 + 2 + 3 + 8) / 4)
    assert per_pair(6, 15) == pytest.approx(2 / 3 * (0.75 * 3 + 0.25 * 8) + 1 / 3 * 0.75 * 5)
    assert per_pair(1, 0) == 1.0
    assert per_pair(1, 20) == pytest.approx(1.5)
    assert per_pair(64, 5) == 5.0
    assert per_pair(64, 31) == 0.0


def _with(cost, field, index, value):
    array = getattr(cost, field).copy()
    array[index] = value
    return cost._replace(**{field: array})


@pytest.mark.parametrize(
    "field", ["linear_s", "communication_s", "lm_head_s", "sampler_s", "decode_kv_knots"]
)
def test_numbers_that_are_no_times_are_refused(llama_8b, field):
    for value in (np.nan, np.inf, -1e-9):
        with pytest.raises(InputError, match=f"{field} holds"):
            validate_iteration_cost(_with(llama_8b, field, -1, value))
    with pytest.raises(InputError, match=f"{field} is float32"):
        validate_iteration_cost(llama_8b._replace(**{field: getattr(llama_8b, field).astype(np.float32)}))
    with pytest.raises(InputError, match=f"{field} is .*C-contiguous"):
        validate_iteration_cost(llama_8b._replace(**{field: getattr(llama_8b, field).repeat(2)[::2]}))


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        (
            "communication_s",
            lambda a: a[1:].copy(),
            r"communication_s has shape \(2048,\), must be \(2049,\)",
        ),
        ("sampler_s", lambda a: a[1:].copy(), r"sampler_s has shape \(256,\)"),
        ("prefill_s_per_pair", lambda a: a[1:].copy(), "prefill_s_per_pair has shape"),
        ("decode_attention_s", lambda a: a[1:].copy(), r"decode_attention_s has shape \(256, 2\)"),
        ("mixed_decode_attention_s", lambda a: a[1:].copy(), "mixed_decode_attention_s has shape"),
        ("decode_kv_knots", lambda a: a * 0.0, "decode_kv_knots must increase"),
        ("prefill_chunk_knots", lambda a: a[::-1].copy(), "prefill_chunk_knots must increase"),
        ("prefill_history_knots", lambda a: a * 0.0 + 1.0, "prefill_history_knots must increase"),
        ("decode_attention_s", lambda a: a[:, ::-1].copy(), "row 1 becomes negative"),
        (
            "mixed_decode_attention_s",
            lambda a: a[:, ::-1].copy(),
            "mixed_decode_attention_s row 1 becomes negative",
        ),
        ("decode_kv_knots", lambda a: a + 50_000.0, "row 1 becomes negative"),
    ],
)
def test_tables_that_do_not_fit_are_refused(llama_8b, field, change, message):
    with pytest.raises(InputError, match=message):
        validate_iteration_cost(llama_8b._replace(**{field: change(getattr(llama_8b, field))}))


def test_every_iteration_must_take_time():
    with pytest.raises(InputError, match=r"linear_s\[1\]"):
        linear_iteration_cost(max_num_batched_tokens=4, max_num_seqs=2, overhead_s=0.0)
    cost = linear_iteration_cost(max_num_batched_tokens=4, max_num_seqs=2, overhead_s=0.0, per_token_s=1.0)
    validate_iteration_cost(_with(cost, "linear_s", 0, 0.0))  # there is no iteration of no tokens
    with pytest.raises(InputError, match=r"linear_s\[3\]"):
        validate_iteration_cost(_with(cost, "linear_s", 3, 0.0))


def test_more_requests_than_tokens_are_refused():
    cost = linear_iteration_cost(max_num_batched_tokens=4, max_num_seqs=4, overhead_s=1.0)
    with pytest.raises(InputError, match="lm_head_s covers 4 requests.*3 tokens"):
        validate_iteration_cost(
            cost._replace(linear_s=cost.linear_s[:4].copy(), communication_s=cost.communication_s[:4].copy())
        )
