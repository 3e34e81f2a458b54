import csv
import gzip

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.power import iteration_power, joules_above_idle
from servegym.costmodels.power import (
    RESNET50_INT8_P4,
    RESNET50_V100,
    LinearBatchEnergy,
    PowerModel,
    iteration_joules,
    utilisation,
)
from servegym.costmodels.specs import GPUS, MODELS, ModelSpec

A100 = GPUS["a100_sxm"]


def test_power_is_linear_up_to_the_limit():
    power = PowerModel(idle=0.3, memory=0.5, compute=1.0)
    np.testing.assert_allclose(power.share([0, 1, 0.2, 1], [0, 0, 0.5, 1]), [0.3, 0.8, 0.9, 1.0])


def test_fit_recovers_known_shares():
    rng = np.random.default_rng(0)
    memory, compute = rng.uniform(0, 0.5, 500), rng.uniform(0, 0.3, 500)
    share = PowerModel(0.3, 0.6, 0.9).share(memory, compute) + rng.normal(0, 0.02, 500)
    found = PowerModel.fit(memory, compute, share)
    assert (found.idle, found.memory, found.compute) == pytest.approx((0.3, 0.6, 0.9), abs=0.02)


def test_utilisation_counts_weights_cache_and_flops():
    model = MODELS["llama_2_7b"]
    memory, compute = utilisation(model, A100, 0.02, 8, 1000, tensor_parallel=2)
    moved = model.weight_bytes + 1000 * model.kv_bytes_per_token
    assert memory == pytest.approx(moved / (2.039e12 * 0.02 * 2))
    assert compute == pytest.approx(2 * model.parameter_count * 8 / (312e12 * 0.02 * 2))
    assert utilisation(model, A100, 1e-6, 8, 1000) == (1.0, 1.0)  # no more than there is


def test_energy_is_power_times_time_on_all_gpus():
    model, power = MODELS["llama_2_7b"], PowerModel(0.25, 0.0, 0.0)
    joules = iteration_joules(model, A100, [0.1, 0.2], 8, 1000, tensor_parallel=4, power=power)
    np.testing.assert_allclose(joules, np.array([0.1, 0.2]) * 0.25 * 400 * 4)


def test_compiled_power_is_the_same():
    """Above what idle GPUs draw, for any mixture of utilisations, also at the limit."""
    rng = np.random.default_rng(0)
    model, gpus = MODELS["llama_2_7b"], 2
    power = PowerModel(0.3, 0.5, 0.9)
    compiled = iteration_power(model, A100, gpus, power)
    limited = 0
    for _ in range(200):
        seconds, tokens, kv_tokens = rng.uniform(1e-3, 0.05), rng.integers(1, 4096), rng.integers(1, 10**5)
        whole = iteration_joules(model, A100, seconds, tokens, kv_tokens, tensor_parallel=gpus, power=power)
        idle_j = power.idle * A100.tdp_w * gpus * seconds
        found = joules_above_idle(compiled, seconds, tokens, kv_tokens)
        assert found + idle_j == pytest.approx(whole, rel=1e-12)
        limited += whole == pytest.approx(A100.tdp_w * gpus * seconds)
    assert 20 < limited < 180


def test_batching_saves_energy_per_token():
    model = MODELS["llama_2_7b"]
    one, many = iteration_joules(model, A100, [0.010, 0.012], [1, 32], [500, 16_000])
    assert one < many < 32 * one


def test_defaults_are_what_splitwise_measured(real_data):
    """Fitted again to the mean power of decoding and the peak power of prefills below the limit."""
    model = ModelSpec("llama_2_70b", 80, 8192, 64, 8, 128, 28672, 32000)
    points = []
    with gzip.open(real_data("kernels/splitwise_sim/perf_model.csv.gz"), "rt") as file:
        for row in csv.DictReader(file):
            if row["hardware"] != "a100-80gb" or float(row["peak_power"]) == 0:
                continue
            gpus, batch, prompt = (int(row[key]) for key in ("tensor_parallel", "batch_size", "prompt_size"))
            prefill_s, decode_s, whole_s = (
                float(row[key]) / 1e3 for key in ("prompt_time", "token_time", "e2e_time")
            )
            if prefill_s < 0.1 * whole_s:  # the mean is then that of decoding
                kv_tokens = batch * (prompt + int(row["token_size"]) / 2)
                used = utilisation(model, A100, decode_s, batch, kv_tokens, tensor_parallel=gpus)
                points.append((*used, float(row["average_power"])))
            if float(row["peak_power"]) < 0.95:
                tokens = batch * prompt
                used = utilisation(model, A100, prefill_s, tokens, tokens, tensor_parallel=gpus)
                points.append((*used, float(row["peak_power"])))
    memory, compute, share = np.array(points, float).T
    fitted, default = PowerModel.fit(memory, compute, share), PowerModel()
    assert (default.idle, default.memory, default.compute) == pytest.approx(
        (fitted.idle, fitted.memory, fitted.compute), abs=0.005
    )
    assert np.mean(np.abs(default.share(memory, compute) / share - 1)) < 0.045


def test_published_batches():
    latency, energy = RESNET50_V100
    assert latency.seconds(8) == pytest.approx(0.1438e-3 * 8 + 1.8874e-3)
    assert energy.joules(8) == pytest.approx(0.04419 * 8 + 0.155)
    latency, energy = RESNET50_INT8_P4
    assert energy.joules(1) / latency.seconds(1) < 75  # W, the limit of a P4
    assert RESNET50_V100[1].joules(64) / RESNET50_V100[0].seconds(64) < 300


def test_refusals():
    with pytest.raises(InputError, match="power: memory is -1"):
        PowerModel(memory=-1)
    with pytest.raises(InputError, match="must take time"):
        iteration_joules(MODELS["llama_2_7b"], A100, 0.0, 1, 1)
    with pytest.raises(InputError, match="per_batch_j is nan"):
        LinearBatchEnergy(1.0, float("nan"))
    with pytest.raises(InputError, match="at least 1"):
        LinearBatchEnergy(1.0, 1.0).joules(0)
