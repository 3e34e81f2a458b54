"""What is measured is what the cost models call by that name, and the timer times it."""

import math

import pytest
import torch
from torch.nn import functional

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.schema import OPERATORS
from servegym.costmodels.specs import MODELS, ModelSpec
from servegym.experiments.profiling import timer as timer_module
from servegym.experiments.profiling.all_reduce import all_reduce_seconds
from servegym.experiments.profiling.decoder_layer import layer_kernel
from servegym.experiments.profiling.operators import INCLUDES, Maker, attend, operator_kernel
from servegym.experiments.profiling.settings import Grid, Timing
from servegym.experiments.profiling.shapes import MEASURED, check_shards, shapes
from servegym.experiments.profiling.timer import Kernel, Timer

CPU = torch.device("cpu")
TINY = ModelSpec("tiny", 2, 32, 4, 2, 8, 48, 100)
GRID = Grid(
    tokens=[1, 4],
    sequences=[1, 2, 3],
    prefill_batch=[1, 2],
    prefill_tokens=[5],
    prefill_history=[0, 3],
    decode_history=[7],
    max_prefill_tokens=10,
    max_decode_tokens=20,
    message_bytes=[64],
)


def maker(dtype=torch.float32):
    return Maker(CPU, dtype, torch.Generator().manual_seed(0))


class Clock:
    """A clock that only kernels move."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def test_seconds_are_the_median_run_over_its_calls(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timer_module, "time", clock)
    monkeypatch.setattr(timer_module, "CPU_FLUSH_BYTES", 64)
    durations = iter([100.0] * 4 + [1.0, 3.0] + [5.0, 7.0] + [50.0, 50.0])  # two warm-ups, then three runs

    def call(x):
        clock.now += next(durations)

    timer = Timer(CPU, Timing(warmups=2, repeats=3, calls=2))
    assert timer.seconds(Kernel(lambda: (torch.ones(1),), call)) == 6.0
    assert next(durations, None) is None


def test_no_call_finds_its_inputs_in_a_cache(monkeypatch):
    """Within a run every call has tensors of its own, and between runs the caches are overwritten."""
    monkeypatch.setattr(timer_module, "CPU_FLUSH_BYTES", 64)
    timer = Timer(CPU, Timing(warmups=0, repeats=3, calls=5))
    seen = []

    def call(x):
        if len(seen) % 5 == 0:
            assert not timer._flush.any()
            timer._flush.fill_(1)
        seen.append(x.data_ptr())

    timer.seconds(Kernel(lambda: (torch.ones(4),), call))
    assert len(set(seen)) == 5
    assert seen[:5] == seen[5:10] == seen[10:]


def test_copies_stay_within_memory(monkeypatch):
    monkeypatch.setattr(timer_module, "CPU_FLUSH_BYTES", 64)
    monkeypatch.setattr(timer_module, "CPU_INPUT_BYTES", 1000)
    made = []

    def inputs():
        made.append(1)
        return (torch.ones(100),)  # 400 bytes

    Timer(CPU, Timing(warmups=0, repeats=1, calls=10)).seconds(Kernel(inputs, lambda x: None))
    assert len(made) == 3


@pytest.mark.parametrize("key, value", [("warmups", -1), ("repeats", 0), ("calls", 0)])
def test_timing_refuses(key, value):
    with pytest.raises(InputError, match=f"timing.{key} = {value}"):
        Timing(**{key: value}).check()


@pytest.mark.parametrize("tokens, history", [(1, 0), (1, 6), (5, 0), (5, 6)])
def test_attention_is_causal_after_a_history(tokens, history):
    """Against sums over the keys that each new token may see, heads sharing keys in groups."""
    make = maker()
    query = make.normal(2, 4, tokens, 8)
    key, value = make.normal(2, 2, history + tokens, 8), make.normal(2, 2, history + tokens, 8)
    answer = attend(query, key, value)
    for head in range(4):
        for i in range(tokens):
            visible = history + i + 1
            keys, values = key[:, head // 2, :visible], value[:, head // 2, :visible]
            weights = torch.softmax((keys @ query[:, head, i, :, None])[..., 0] / math.sqrt(8), dim=-1)
            wanted = (weights[..., None] * values).sum(dim=1)
            torch.testing.assert_close(answer[:, head, i], wanted)


def test_layer_is_a_llama_layer():
    """One token without history attends to itself, so attention passes its value on."""
    kernel = layer_kernel(TINY, {"tp": 1, "batch": 3, "history": 0}, maker())
    x, qkv, out, gate_up, down, norm, ffn_norm, cosine, sine, keys, values = kernel.inputs()

    def normalised(y, weight):
        return y / torch.sqrt((y * y).mean(dim=-1, keepdim=True) + 1e-5) * weight

    value = normalised(x, norm) @ qkv[(4 + 2) * 8 :].T  # (3, 1, 2 * 8)
    per_head = value.view(3, 1, 2, 8).repeat_interleave(2, dim=2).reshape(3, 1, 32)
    middle = x + per_head @ out.T
    gate, up = normalised(middle, ffn_norm) @ gate_up[:48].T, normalised(middle, ffn_norm) @ gate_up[48:].T
    wanted = middle + (functional.silu(gate) * up) @ down.T
    answer = kernel.call(x, qkv, out, gate_up, down, norm, ffn_norm, cosine, sine, keys, values)
    torch.testing.assert_close(answer, wanted, rtol=1e-4, atol=1e-4)


def test_layer_in_two_chunks_is_the_layer_in_one():
    """A prefill of 5 tokens equals one of 3, one of 1 after them, and a decode after these four."""
    make = maker()
    x, *weights, cosine, sine, _, _ = layer_kernel(
        TINY, {"tp": 1, "batch": 2, "tokens": 5, "history": 0}, make
    ).inputs()

    def run(start, end, keys, values):
        shape = {"tp": 1, "batch": 2, "tokens": end - start, "history": start}
        caches = (torch.zeros(2, 2, end, 8), torch.zeros(2, 2, end, 8))
        for cache, old in zip(caches, (keys, values), strict=True):
            cache[:, :, :start] = old
        parts = (x[:, start:end], *weights, cosine[start:end], sine[start:end], *caches)
        return layer_kernel(TINY, shape, make).call(*parts), caches

    empty = torch.zeros(2, 2, 0, 8)
    whole, _ = run(0, 5, empty, empty)
    first, caches = run(0, 3, empty, empty)
    second, caches = run(3, 4, *caches)
    third, _ = run(4, 5, *caches)
    torch.testing.assert_close(torch.cat([first, second, third], dim=1), whole, rtol=1e-4, atol=1e-4)


def test_operators_compute_what_they_are_called():
    make = maker()
    for operator, shape, wanted in (
        ("gemm", {"m": 2, "n": 3, "k": 4}, lambda x, w: x @ w.T),
        ("activation", {"tokens": 2, "width": 5}, lambda gate, up: gate / (1 + torch.exp(-gate)) * up),
        ("sampling", {"sequences": 2, "vocab": 9}, lambda logits: logits.argmax(dim=-1)),
        (
            "normalisation",
            {"tokens": 2, "width": 5},
            lambda x, w: x / torch.sqrt((x * x).mean(-1, True) + 1e-5) * w,
        ),
    ):
        kernel = operator_kernel(operator, shape, make)
        inputs = kernel.inputs()
        torch.testing.assert_close(kernel.call(*inputs), wanted(*inputs))
        assert all(tensor.std() > 0 for tensor in inputs)  # zeros would draw less power and run faster


def test_attention_kernels_have_the_dimensions_of_the_schema():
    shape = {"batch": 2, "history": 6, "heads": 4, "kv_heads": 2, "head_dim": 8, "window": 0}
    query, key, _ = operator_kernel("decode_attention", shape, maker()).inputs()
    assert query.shape == (2, 4, 1, 8) and key.shape == (2, 2, 7, 8)
    query, key, _ = operator_kernel("prefill_attention", {**shape, "tokens": 5}, maker()).inputs()
    assert query.shape == (2, 4, 5, 8) and key.shape == (2, 2, 11, 8)


def test_shapes_are_those_of_the_model():
    found = shapes("gemm", [MODELS["llama_3_1_8b"]], [2], Grid(tokens=[7], sequences=[3]))
    assert [tuple(shape.values()) for shape in found] == [
        (7, 3072, 4096),  # (32 + 2 * 8) / 2 heads of 128
        (7, 4096, 2048),
        (7, 14336, 4096),  # gate and up
        (7, 4096, 7168),
        (3, 64128, 4096),  # half of the LM head
    ]
    assert shapes("prefill_attention", [TINY], [1, 1], GRID) == [
        dict(zip(OPERATORS["prefill_attention"], (*batch, 4, 2, 8, 0), strict=True))
        for batch in ((1, 5, 0), (1, 5, 3), (2, 5, 0))  # two of 8 tokens are too many
    ]
    assert shapes("decode_layer", [TINY], [1, 2], GRID) == [
        {"batch": batch, "history": 7, "tp": tp} for tp in (1, 2) for batch in (1, 2)
    ]  # three sequences of 7 tokens are too many
    assert shapes("sampling", [TINY], [2], GRID) == [{"sequences": m, "vocab": 100} for m in (1, 2, 3)]


def test_every_measured_operator_is_described():
    assert set(INCLUDES) == set(MEASURED) <= set(OPERATORS)


def test_grid_and_shards_refuse():
    with pytest.raises(InputError, match=r"grid.tokens = \[0\]"):
        Grid(**{**vars(GRID), "tokens": [0]}).check()
    with pytest.raises(InputError, match=r"grid.decode_history = \[\]"):
        Grid(**{**vars(GRID), "decode_history": []}).check()
    GRID.check()
    with pytest.raises(InputError, match="tensor_parallel = 4: must divide the 2 KV heads"):
        check_shards(TINY, 4)


@pytest.mark.slow
def test_all_reduce_between_processes():
    seconds = all_reduce_seconds("cpu", 2, [64, 4096], Timing(warmups=1, repeats=2, calls=2))
    assert len(seconds) == 2 and min(seconds) > 0
