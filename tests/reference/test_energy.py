"""The energy of small cases worked out by hand."""

import pytest

from tests.reference.energy import Power, energy_j
from tests.reference.hand import run
from tests.reference.llm import Engine

POWER = Power(
    gpus=2, tdp_w=100.0, hbm_bytes_per_s=50.0, peak_flops=20.0, weight_bytes=10.0, kv_bytes_per_token=2.0,
    parameters=1.0, idle=0.25, memory=0.5, compute=1.0,
)  # fmt: skip
"""200 W; a second moves 100 bytes, or computes 20 tokens."""


def test_iterations_and_the_time_between() -> None:
    """Prefill of 5 tokens at 0 s: 20 bytes, 10 FLOPs. A decode: 22 bytes, 2 FLOPs. At 4 s again, till 5 s."""
    result = run([(0.0, 5, 2), (4.0, 5, 1)], Engine(16, 4, 4, 20))
    prefill = 0.25 + 0.5 * 20 / 100 + 10 / 40
    decode = 0.25 + 0.5 * 22 / 100 + 2 / 40
    joules = energy_j(POWER, result.iterations[0], 0.0, 5.0)
    assert joules == pytest.approx(200 * (prefill + decode + 2 * 0.25 + prefill))


def test_not_more_than_all_power() -> None:
    """16 tokens a second: 0.25 + 0.5 * 42 / 100 + 32 / 40 is more than 1."""
    result = run([(0.0, 16, 1)], Engine(16, 4, 4, 20))
    assert energy_j(POWER, result.iterations[0], 0.0, 1.0) == pytest.approx(200.0)
