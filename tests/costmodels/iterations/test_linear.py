"""Linear clocks: exact where the cost is linear, near elsewhere."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.costmodels.iterations.linear import LinearClock, linear_clock, linear_clock_error
from servegym.costmodels.iterations.presets import load_preset


def test_a_linear_cost_is_found_again() -> None:
    """A decode has a token in the batch, which takes as long as one of a prompt."""
    cost = linear_iteration_cost(
        max_num_batched_tokens=512, max_num_seqs=64, overhead_s=0.01, per_token_s=2e-5, per_kv_token_s=3e-8
    )
    clock = linear_clock(cost, 100_000)
    np.testing.assert_allclose(clock, LinearClock(0.01, 2e-5, 2e-5, 3e-8), rtol=1e-9)
    assert max(linear_clock_error(clock, cost, 100_000)) < 1e-12


def test_errors_are_those_of_prefill_and_of_decode() -> None:
    cost = linear_iteration_cost(max_num_batched_tokens=16, max_num_seqs=1, overhead_s=1.0, per_token_s=0.1)
    prefills, decodes = linear_clock_error(LinearClock(1.0, 0.0, 0.0, 0.0), cost, 128)
    assert prefills == pytest.approx(np.mean([1 - 1 / (1 + 0.1 * chunk) for chunk in range(1, 17)]))
    assert decodes == pytest.approx(1 - 1 / 1.1)


def test_a_measured_cost_is_near() -> None:
    """Of Llama-3.1-8B on an H100."""
    cost = load_preset("h100_sxm", "llama_3_1_8b", 1, max_num_batched_tokens=2048, max_num_seqs=128)
    clock = linear_clock(cost, 400_000)
    prefills, decodes = linear_clock_error(clock, cost, 400_000)
    assert min(clock) >= 0 and clock.overhead_s > 0
    assert prefills < 0.2 and decodes < 0.2


def test_too_little_memory_is_refused() -> None:
    cost = linear_iteration_cost(max_num_batched_tokens=16, max_num_seqs=1, overhead_s=1.0)
    with pytest.raises(InputError, match="kv_tokens = 127: must be at least 128 to fit a clock"):
        linear_clock(cost, 127)
