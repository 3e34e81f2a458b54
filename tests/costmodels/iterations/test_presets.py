"""Committed presets: they load, make sense beside the roofline, and are refused beyond what they cover."""

import json

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import compile_iteration_cost
from servegym.costmodels.iterations.cost import (
    IterationCost,
    decode_seconds,
    prefill_attention_seconds,
    step_seconds,
    validate_iteration_cost,
)
from servegym.costmodels.iterations.presets import (
    compiled_folder,
    load_preset,
    preset_name,
    preset_names,
    read_preset,
    write_preset,
)
from servegym.costmodels.specs import GPUS, MODELS

LIMITS = {"max_num_batched_tokens": 8192, "max_num_seqs": 1024}
PROVENANCE = {name: json.loads((compiled_folder() / f"{name}.json").read_text()) for name in preset_names()}


def roofline(name: str) -> IterationCost:
    said = PROVENANCE[name]
    return compile_iteration_cost(
        MODELS[said["model"]],
        GPUS[said["gpu"]],
        tensor_parallel=said["tensor_parallel"],
        max_kv_tokens=said["max_kv_tokens"],
        **LIMITS,
    )


def prefill_iteration_s(cost: IterationCost, chunk: int, history: int) -> float:
    return step_seconds(cost, chunk, 1) + prefill_attention_seconds(cost, chunk, history)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_what_its_provenance_says(name: str) -> None:
    said = PROVENANCE[name]
    triple = (said["gpu"], said["model"], said["tensor_parallel"])
    assert name == preset_name(*triple)
    assert said["licence"].startswith("Apache-2.0")
    shares = [each["share_extrapolated"] for each in said["measured"].values()]
    assert all(0 <= share <= 1 for share in shares)
    assert ("all_reduce" in said["measured"]) == (said["tensor_parallel"] > 1)
    cost = load_preset(*triple, **LIMITS)
    validate_iteration_cost(cost)
    assert cost.overhead_s == pytest.approx(said["cpu_overhead_s"])
    assert cost.decode_kv_knots[-1] == said["max_kv_tokens"]
    assert (cost.communication_s[1:] > 0).all() == (said["tensor_parallel"] > 1)


@pytest.mark.parametrize("name", preset_names())
def test_iterations_last_about_as_long_as_by_the_roofline(name: str) -> None:
    """Of 500 of each kind all lie within a factor of 1.8, and their geometric mean within 1.25."""
    cost, plain = read_preset(compiled_folder(), name), roofline(name)
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(500):
        decodes = int(np.exp(rng.uniform(0, np.log(1024))))
        most = min(PROVENANCE[name]["max_kv_tokens"] // decodes, 8192)
        kv_tokens = decodes * int(np.exp(rng.uniform(np.log(32), np.log(most))))
        ratios.append(decode_seconds(cost, decodes, kv_tokens) / decode_seconds(plain, decodes, kv_tokens))
        chunk, history = int(np.exp(rng.uniform(0, np.log(8192)))), int(rng.integers(0, 4096))
        ratios.append(prefill_iteration_s(cost, chunk, history) / prefill_iteration_s(plain, chunk, history))
    assert 1 / 1.8 < min(ratios) < max(ratios) < 1.8
    assert 1 / 1.25 < np.exp(np.mean(np.log(ratios))) < 1.25


@pytest.mark.parametrize("name", preset_names())
def test_more_work_takes_hardly_ever_less_time(name: str) -> None:
    """Kernels are chosen by shape, so a larger batch may be faster: by at most a sixth."""
    cost = read_preset(compiled_folder(), name)
    for table in (cost.linear_s + cost.communication_s, cost.lm_head_s + cost.sampler_s):
        assert (table[1:] >= np.maximum.accumulate(table)[1:] * 5 / 6).all()
        assert table[-1] > 2 * table[1]
    assert (np.diff(cost.decode_attention_s[1:], axis=1) >= 0).all()


def test_limits_of_the_engine_cut_the_tables() -> None:
    triple = ("h100_sxm", "llama_3_1_8b", 1)
    whole = load_preset(*triple, **LIMITS)
    cut = load_preset(*triple, max_num_batched_tokens=512, max_num_seqs=64)
    assert (len(cut.linear_s), len(cut.sampler_s), len(cut.mixed_decode_attention_s)) == (513, 65, 65)
    assert decode_seconds(cut, 64, 64_000) == decode_seconds(whole, 64, 64_000)
    assert prefill_iteration_s(cut, 512, 1000) == prefill_iteration_s(whole, 512, 1000)


def test_what_no_preset_covers_is_refused() -> None:
    with pytest.raises(
        InputError, match="no measured cost model of llama_2_7b on 2 x h100_sxm; there are .*8b-h"
    ):
        load_preset("h100_sxm", "llama_2_7b", 2, **LIMITS)
    for limits, message in (
        ({"max_num_batched_tokens": 8193}, "max_num_batched_tokens is 8193, must be from 1 to 8192"),
        ({"max_num_seqs": 2000}, "max_num_seqs is 2000, must be from 1 to 1024"),
        ({"max_num_seqs": 0}, "max_num_seqs is 0"),
    ):
        with pytest.raises(InputError, match=message):
            load_preset("h100_sxm", "llama_3_1_8b", 1, **(LIMITS | limits))


def test_writing_and_reading_keep_every_table(tmp_path) -> None:
    name = "llama_3_1_8b-h100_sxm-tp1"
    plain = roofline(name)
    write_preset(tmp_path, name, plain, {"made": "up"})
    for field, value in read_preset(tmp_path, name)._asdict().items():
        assert np.allclose(value, getattr(plain, field), rtol=6e-8, atol=0)
    assert json.loads((tmp_path / f"{name}.json").read_text()) == {"made": "up"}
    with pytest.raises(InputError, match="must take what they take alone"):
        write_preset(
            tmp_path, name, plain._replace(mixed_decode_attention_s=plain.decode_attention_s + 1), {}
        )
