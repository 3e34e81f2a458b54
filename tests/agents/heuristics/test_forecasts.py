"""Forecasts from a replica's row, against sums by hand and against the simulator."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from servegym.agents.heuristics.forecasts import (
    H100_LLAMA_8B,
    completion_s,
    decode_s,
    forecast_parameters,
    ttft_s,
)
from servegym.agents.heuristics.marginal_latency import marginal_latency
from servegym.agents.heuristics.min_min import min_min
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.costmodels.iterations.linear import LinearClock
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload
from tests.agents.heuristics.rows import request_of, rows_of

CLOCK = LinearClock(10.0, 1.0, 2.0, 0.5)
PARAMETERS = forecast_parameters(CLOCK, 104, 16, 21)


def row_of(**columns: float) -> np.ndarray:
    """One replica."""
    return rows_of(1, **{name: [value] for name, value in columns.items()})[0]


def test_an_idle_replica_prefills_at_once() -> None:
    assert ttft_s(row_of(), request_of(prompt_tokens=50), PARAMETERS) == 10 + 50
    assert ttft_s(row_of(speed=2), request_of(prompt_tokens=50), PARAMETERS) == (10 + 50) / 2
    assert ttft_s(row_of(prefix_hit_tokens=32), request_of(prompt_tokens=50), PARAMETERS) == 10 + 18


def test_decodes_ride_along_and_take_budget() -> None:
    """4 decodes of 60 tokens in all: an iteration lasts 10 + 8 + 30 without prefill, with 100 tokens left."""
    row = row_of(running=4, decode_context_tokens=60, queued_prefill_tokens=150, iteration_left_s=3, speed=2)
    assert decode_s(row, PARAMETERS, 0.0, 0.0) == 48 / 2
    assert ttft_s(row, request_of(prompt_tokens=50), PARAMETERS) == 3 + (2 * 48 + 200) / 2
    assert ttft_s(row, request_of(prompt_tokens=51), PARAMETERS) == 3 + (3 * 48 + 201) / 2


def test_blocks_that_are_lacking_are_waited_for() -> None:
    """2 blocks are free, 50 - 32 = 18 tokens are lacking, 6 are released in an iteration of 10 s."""
    row = row_of(kv_used_blocks=98, kv_released_per_iteration=6)
    assert ttft_s(row, request_of(prompt_tokens=32), PARAMETERS) == 10 + 32
    assert ttft_s(row, request_of(prompt_tokens=50), PARAMETERS) == 10 + 50 + 3 * 10
    assert ttft_s(row_of(kv_used_blocks=98), request_of(prompt_tokens=50), PARAMETERS) == math.inf


def test_completion_decodes_with_one_more() -> None:
    """20 iterations after the first token, each 10 + 2 (4 + 1) + 0.5 (60 + 50 + 21 / 2)."""
    row = row_of(running=4, decode_context_tokens=60)
    first_s = ttft_s(row, request_of(prompt_tokens=50), PARAMETERS)
    each_s = 10 + 2 * 5 + 0.5 * (60 + 50 + 10.5)
    assert completion_s(row, request_of(prompt_tokens=50), PARAMETERS) == first_s + 20 * each_s
    predicted = request_of(prompt_tokens=50, predicted_output_tokens=1)
    assert completion_s(row, predicted, PARAMETERS) == first_s


def test_forecasts_come_true_where_the_clock_is_exact() -> None:
    """Prompts longer than the budget, of which the second has to wait for an iteration in flight."""
    engine = Engine(max_num_batched_tokens=128, max_num_seqs=16, num_kv_blocks=1000)
    cost = linear_iteration_cost(
        max_num_batched_tokens=128, max_num_seqs=16, overhead_s=0.01, per_token_s=0.001
    )
    parameters = forecast_parameters(LinearClock(0.01, 0.001, 0.0, 0.0), 128, 16)  # nobody decodes
    foretold = []

    def remember(rows, request, _parameters, memory, random_state):
        foretold.append(ttft_s(rows[0], request, parameters))
        return 0

    # the second comes while the last chunk of the first is prefilled
    workload = Workload("three", [0.0, 0.3, 5.0], [300, 212, 77], [1, 1, 1])
    results = simulate(workload, Router("remember", remember), num_replicas=1, engine=engine, cost=cost)
    np.testing.assert_allclose(foretold, results.first_token_s - results.arrival_s, rtol=1e-12)


def test_a_scenario_hands_out_its_clock() -> None:
    """This one's is the routers' default."""
    scenario = load_scenario("azure_conv_8xh100")
    np.testing.assert_allclose(H100_LLAMA_8B, scenario.clock, rtol=1e-5)


@pytest.mark.parametrize(
    ("clock", "message"),
    [
        (LinearClock(-1, 0, 0, 0), "clock.overhead_s = -1: must be at least 0 and finite"),
        (LinearClock(0, math.nan, 0, 0), "clock.s_per_prefill_token = nan: must be at least 0"),
        (LinearClock(0, 0, 0, 0), "clock = 0 in all its numbers"),
    ],
)
def test_clocks_that_run_backwards(clock: LinearClock, message: str) -> None:
    with pytest.raises(InputError, match=message):
        forecast_parameters(clock, 1, 1)


@pytest.mark.parametrize("make", [min_min, marginal_latency])
def test_ranges(make: Callable[..., Router]) -> None:
    with pytest.raises(InputError, match="router.token_budget = 0: must be at least 1"):
        make(token_budget=0)
    with pytest.raises(InputError, match="router.block_size = 0: must be at least 1"):
        make(block_size=0)
    with pytest.raises(InputError, match="router.mean_output_tokens = 0: must be above 0"):
        make(mean_output_tokens=0)
