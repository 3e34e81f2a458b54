"""Inoue's closed forms against the exact evaluation and against simulation."""

import math

import numpy as np
import pytest

from servegym.agents.smdp import BatchTablePolicy, evaluate, greedy, simulate_batching
from servegym.agents.smdp.inoue import idle_share, mean_latency_bounds_s, mean_latency_s
from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario

LAWS = {"v100": (0.1438e-3, 1.8874e-3), "p4": (0.5833e-3, 1.4284e-3)}
"""Seconds of a batch, per request and in all: ResNet-50, as the paper has it."""

cases = pytest.mark.parametrize(
    ("gpu", "load"), [(gpu, load) for gpu in LAWS for load in (0.02, 0.1, 0.3, 0.5, 0.7, 0.8)]
)


def unlimited(gpu: str, load: float, requests: int = 1000) -> DynamicBatchingScenario:
    """A server whose largest batch is never reached."""
    alpha_s, beta_s = LAWS[gpu]
    sizes = np.arange(1, 513)
    return DynamicBatchingScenario(
        gpu, load / alpha_s, tuple((alpha_s * sizes + beta_s).tolist()), requests=requests
    )


@cases
def test_exact_mean_is_that_of_the_chain(gpu: str, load: float) -> None:
    """Two ways to the same number, and to the share of time in which nothing runs."""
    scenario = unlimited(gpu, load)
    found = evaluate(scenario, greedy(scenario))
    assert mean_latency_s(scenario.rate_rps, *LAWS[gpu]) == pytest.approx(found.response_s, rel=1e-7)
    idle = idle_share(scenario.rate_rps, *LAWS[gpu])
    assert idle == pytest.approx(1 - found.utilisation, abs=1e-7)


@cases
def test_bounds_hold_and_the_better_one_is_near(gpu: str, load: float) -> None:
    rate = load / LAWS[gpu][0]
    exact, bounds = mean_latency_s(rate, *LAWS[gpu]), mean_latency_bounds_s(rate, *LAWS[gpu])
    assert exact <= min(bounds) * (1 + 1e-12)
    assert min(bounds) < 1.2 * exact


@pytest.mark.compiled
@pytest.mark.parametrize("gpu", LAWS)
@pytest.mark.parametrize("load", [0.1, 0.4, 0.7])
def test_simulation_gives_the_exact_mean(gpu: str, load: float) -> None:
    """Within 1 %, and above neither bound by more than chance allows."""
    scenario = unlimited(gpu, load, requests=40_000)
    policy = BatchTablePolicy("greedy", greedy(scenario), scenario)
    found = simulate_batching(policy, scenario, num_episodes=32)
    exact = mean_latency_s(scenario.rate_rps, *LAWS[gpu])
    assert found.response_s == pytest.approx(exact, rel=0.01)
    assert abs(found.response_s - exact) < 4 * found.cost_error  # power weighs nothing here
    assert (
        found.response_s <= min(mean_latency_bounds_s(scenario.rate_rps, *LAWS[gpu])) + 4 * found.cost_error
    )


def test_light_traffic_and_saturation() -> None:
    """Alone a request takes l(1); at the largest rate latency has no bound."""
    alpha_s, beta_s = LAWS["v100"]
    assert mean_latency_s(1e-3, alpha_s, beta_s) == pytest.approx(alpha_s + beta_s, rel=1e-5)
    at = [mean_latency_s(load / alpha_s, alpha_s, beta_s) * (1 - load) for load in (0.9, 0.95)]
    assert at[1] == pytest.approx(at[0], rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((7000.0, 0.1438e-3, 1e-3), "rate_rps = 7000: must be below 1 / alpha_s = 6954.1"),
        ((0.0, 0.1e-3, 1e-3), "rate_rps = 0.0: must be positive"),
        ((1.0, math.nan, 1e-3), "alpha_s = nan: must be positive"),
        ((1.0, 1e-3, -1.0), "beta_s = -1.0: must be positive"),
    ],
)
def test_bad_input_is_refused_by_name(arguments: tuple[float, float, float], said: str) -> None:
    for function in (mean_latency_s, mean_latency_bounds_s, idle_share):
        with pytest.raises(InputError) as raised:
            function(*arguments)
        assert said in str(raised.value)
