"""The undiscounted return of an episode is what its objective weighs, whatever was decided."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.batching.env import BatchingEnv
from servegym.envs.routing.env import RoutingEnv
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.two_level.env import TwoLevelEnv

SLO = {"slo_ttft_s": 1.0, "slo_tpot_s": 0.02}


def attained(results: Results) -> int:
    """Requests within both limits."""
    decode_s = results.finish_s - results.first_token_s
    in_time = results.first_token_s - results.arrival_s <= SLO["slo_ttft_s"]
    return int(np.sum(in_time & (decode_s <= SLO["slo_tpot_s"] * (results.output_tokens - 1))))


RETURNS = {
    "ttft_weight": lambda results: -(results.first_token_s - results.arrival_s).sum(),
    "latency_weight": lambda results: -(results.finish_s - results.arrival_s).sum(),
    "tpot_weight": lambda results: -(results.finish_s - results.first_token_s).sum(),
    "throughput_weight": lambda results: len(results.finish_s),
    "slo_weight": attained,
}


def scenario_with(kind: type, weights: dict[str, float], charge: bool = False) -> Scenario:
    """A small scenario with these weights only."""
    objective = dict.fromkeys(RETURNS, 0.0) | SLO | weights
    return load_scenario(
        "generated_1xh100",
        (
            "scenario.episode.requests=30",
            "scenario.engine.max_num_seqs=8",
            "scenario.engine.max_num_batched_tokens=512",
            f"scenario.fleet.replicas={2 if kind is TwoLevelEnv else 1}",
            f"scenario.objective.charge_expected_wait={str(charge).lower()}",
            *(f"scenario.objective.{key}={value}" for key, value in objective.items()),
        ),
    )


def play(env: gym.Env[Any, Any]) -> tuple[float, Results]:
    """Legal actions at random, those that start an iteration more often; return and results."""
    rng = np.random.default_rng(1)
    env.reset(seed=1)
    total, over = 0.0, False
    while not over:
        legal = np.flatnonzero(env.action_masks())  # type: ignore[attr-defined]
        action = legal[-1] if rng.random() < 0.5 else legal[0]
        if rng.random() < 0.02:
            action = rng.choice(legal)
        _, reward, over, _, _ = env.step(action)
        total += float(reward)
    return total, env._episodes.results(0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [BatchingEnv, TwoLevelEnv])
@pytest.mark.parametrize("weight", RETURNS)
def test_return_is_the_metric(kind: type, weight: str) -> None:
    """Each weight alone."""
    total, results = play(kind(scenario_with(kind, {weight: 2.0})))
    expected = float(RETURNS[weight](results))
    assert total == pytest.approx(2.0 * expected, rel=1e-9)
    if weight == "slo_weight":
        assert 0 < expected < len(results.finish_s)


@pytest.mark.parametrize("kind", [BatchingEnv, TwoLevelEnv])
def test_energy_weighed_is_energy_measured(kind: type) -> None:
    """The return of weighed joules is the metric, which is there on demand and does not depend on weights."""
    metrics = []
    for weights in ({"energy_weight": 0.25}, {"measure_energy": True}, {}):
        env = kind(scenario_with(kind, weights))
        total, results = play(env)
        metrics.append(env._problem.metrics(0))
        if "energy_weight" in weights:
            assert total == pytest.approx(-0.25 * metrics[0]["energy_j"], rel=1e-9)
            power, replicas = env._episodes.power, env._episodes.num_replicas
            idle_j = power.full_w * power.idle * metrics[0]["makespan_s"] * replicas
            assert idle_j < metrics[0]["energy_j"] < idle_j / power.idle
            per_token = metrics[0]["energy_j"] / results.output_tokens.sum()
            assert metrics[0]["energy_j_per_output_token"] == pytest.approx(per_token)
    assert metrics[0] == metrics[1]
    assert set(metrics[0]) - set(metrics[2]) == {"energy_j", "energy_j_per_output_token"}


@pytest.mark.parametrize("charge", [True, False])
def test_weights_add_up(charge: bool) -> None:
    """All weights together, with expected waits charged early or not."""
    weights = {"ttft_weight": 1.0, "latency_weight": 0.5, "tpot_weight": 0.25, "slo_weight": 3.0}
    total, results = play(BatchingEnv(scenario_with(BatchingEnv, weights, charge)))
    expected = sum(weight * RETURNS[key](results) for key, weight in weights.items())
    assert total == pytest.approx(expected, rel=1e-9)


def test_expected_waits_are_charged_when_they_begin() -> None:
    """No time passes until the batch starts: admitting costs nothing, unless the wait is charged at once."""
    rewards = []
    for charge in (True, False):
        env = BatchingEnv(scenario_with(BatchingEnv, {"ttft_weight": 1.0}, charge))
        env.reset(seed=0)
        rewards.append(env.step(np.int64(0))[1])
    assert rewards[0] < rewards[1] == 0


def test_routing_refuses_what_it_does_not_count() -> None:
    for key, value, allowed in (
        ("slo_weight", 1.0, "0"),
        ("energy_weight", 2.0, "0"),
        ("measure_energy", True, "false"),
    ):
        scenario = scenario_with(RoutingEnv, {key: value})
        with pytest.raises(
            InputError, match=f"scenario.objective.{key} = {value}: must be {allowed} for routing"
        ):
            RoutingEnv(scenario)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(InputError, match=r"scenario.objective.energy_weight = -1.0: must be at least 0"):
        scenario_with(BatchingEnv, {"energy_weight": -1.0})
