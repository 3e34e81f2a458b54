"""`servegym/DynamicBatching-v0`, the single environment."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env as check_with_sb3

from servegym.costmodels.errors import InputError
from servegym.envs.checks import check_environment
from servegym.envs.dynamic_batching.config import DynamicBatchingConfig
from servegym.envs.dynamic_batching.env import DynamicBatchingEnv
from servegym.envs.dynamic_batching.observation import DRAINING, GAP_S, OLDEST_S, QUEUE
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario, load_dynamic_batching
from servegym.envs.dynamic_batching.vector import DynamicBatchingVectorEnv
from servegym.envs.scenario.compose import list_scenarios

ENV_ID = "servegym.envs:servegym/DynamicBatching-v0"

TINY = DynamicBatchingScenario(
    "tiny",
    rate_rps=2.0,
    latency_s=(1.0, 1.5, 2.0),
    energy_j=(4.0, 6.0, 7.0),
    response_weight=1.0,
    power_weight=0.5,
    requests=30,
)


def played(env: DynamicBatchingEnv, *actions: int) -> list[tuple[list[float], float, list[int]]]:
    """Observation, reward and legal actions after each of the actions."""
    outcomes = []
    for action in actions:
        observation, reward, *_ = env.step(action)
        outcomes.append((observation.tolist(), reward, np.flatnonzero(env.action_masks()).tolist()))
    return outcomes


def random_episode(env: DynamicBatchingEnv, seed: int) -> tuple[float, dict[str, float]]:
    """Return and metrics of an episode with legal actions at random."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    total, terminated = 0.0, False
    while not terminated:
        action = rng.choice(np.flatnonzero(env.action_masks()))
        _, reward, terminated, _, info = env.step(action)
        total += reward
    return total, info["episode_metrics"]


def test_an_episode_by_hand() -> None:
    """Four requests at 0, 0.25, 3 and 3 s; every observation, reward and mask worked out."""
    env = DynamicBatchingEnv(TINY, arrivals_s=[0.0, 0.25, 3.0, 3.0])
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == [1, 0, 0, 0]
    assert np.flatnonzero(env.action_masks()).tolist() == [0, 1]
    outcomes = played(env, 0, 2, 1, 1)
    # wait: one request in the system for 0.25 s, at 1 / 2 a second
    assert outcomes[0] == ([2, 0.25, 0, 0], -0.125, [0, 1, 2])
    # a batch of 2 for 1.5 s and 6 J, then idle until the two at 3 s, after which there is no more to wait for
    assert outcomes[1] == ([2, 0, 0, 1], -(0.5 * 3.0 + 0.5 * 6.0), [1, 2])
    assert outcomes[2] == ([1, 1, 1, 1], -(0.5 * 2.0 + 0.5 * 4.0), [1])
    assert outcomes[3] == ([0, 0, 2, 1], -(0.5 * 1.0 + 0.5 * 4.0), [])
    metrics = env._problem.metrics(0)
    assert metrics["mean_response_s"] == (1.75 + 1.5 + 1.0 + 2.0) / 4
    assert metrics["p50_response_s"] == (1.5 + 1.75) / 2
    assert metrics["makespan_s"] == 5.0
    assert metrics["energy_j"] == 14.0 and metrics["power_w"] == 14.0 / 5.0
    assert metrics["num_batches"] == 3 and metrics["mean_batch"] == 4 / 3
    assert metrics["utilisation"] == 3.5 / 5.0
    assert metrics["cost"] == metrics["mean_response_s"] + 0.5 * metrics["power_w"]


def test_arrivals_during_a_batch_and_at_its_end_are_seen_then() -> None:
    env = DynamicBatchingEnv(TINY, arrivals_s=[0.0, 0.5, 1.0, 1.0, 9.0])
    env.reset(seed=0)
    ((observation, reward, legal),) = played(env, 1)
    assert observation == [3, 0.5, 0, 0]
    assert reward == -(0.5 * (1.0 + 0.5) + 0.5 * 4.0)
    assert legal == [0, 1, 2, 3]


def test_a_least_batch_is_waited_for() -> None:
    """What comes before the first decision is charged with it."""
    env = DynamicBatchingEnv(replace(TINY, min_batch=2), arrivals_s=[0.0, 2.0, 2.5, 4.0])
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == [2, 2, 0, 0]
    ((observation, reward, legal),) = played(env, 2)
    assert observation == [2, 1.5, 0, 1] and legal == [2]
    # 2 s before, 1.5 s of service for two, 1 s of the third meanwhile, 0.5 s of it alone until 4 s
    assert reward == -(0.5 * (2.0 + 3.0 + 1.0 + 0.5) + 0.5 * 6.0)


def test_what_is_left_at_the_end_goes_as_it_is() -> None:
    env = DynamicBatchingEnv(replace(TINY, min_batch=2), arrivals_s=[0.0, 2.0, 2.5])
    env.reset(seed=0)
    assert played(env, 2)[0][2] == [1]
    assert env.step(1)[2]


@pytest.mark.parametrize("min_batch", [1, 3])
def test_the_return_is_minus_the_cost_of_all_requests(min_batch: int) -> None:
    """Whatever is done, from whatever arrivals."""
    scenario = replace(TINY, min_batch=min_batch)
    rng = np.random.default_rng(0)
    for arrivals_s in (None, np.cumsum(rng.gamma(0.1, 5.0, 40)), np.repeat(np.arange(9.0), 4)):
        env = DynamicBatchingEnv(scenario, arrivals_s)
        for seed in range(3):
            total, metrics = random_episode(env, seed)
            seconds = metrics["mean_response_s"] * metrics["num_requests"]
            expected = seconds * scenario.response_weight / scenario.rate_rps
            assert -total == pytest.approx(expected + scenario.power_weight * metrics["energy_j"], rel=1e-12)


def test_reward_is_worse_under_congestion() -> None:
    """The same server with twice the traffic, all that wait served at once: each request costs more."""
    costs = []
    for rate in (0.5, 1.0):
        env = DynamicBatchingEnv(replace(TINY, rate_rps=rate, requests=400))
        observation, _ = env.reset(seed=0)
        terminated, total = False, 0.0
        while not terminated:
            observation, reward, terminated, _, _ = env.step(min(int(observation[QUEUE]), 3))
            total += reward
        costs.append(-total * rate)  # back to weights of one request's seconds
    assert costs[1] > 1.1 * costs[0]


def test_poisson_arrivals_have_the_rate() -> None:
    env = DynamicBatchingEnv(replace(TINY, requests=40_000))
    env.reset(seed=3)
    gaps_s = np.diff(env._problem.workloads[0])
    assert gaps_s.mean() == pytest.approx(0.5, rel=0.02)
    assert gaps_s.std() == pytest.approx(0.5, rel=0.02)


def test_passes_the_checker() -> None:
    check_environment(ENV_ID, scenario=replace(TINY, requests=100), episodes=2)


def test_passes_the_checker_of_stable_baselines3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which samples any action: of legal ones here, as masked learners do."""
    env = DynamicBatchingEnv(TINY)
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        env.action_space, "sample", lambda *_: np.int64(rng.choice(np.flatnonzero(env.action_masks())))
    )
    check_with_sb3(env, skip_render_check=True)


@pytest.mark.parametrize("action", [-1, 2, 4])
def test_illegal_action_is_refused_and_changes_nothing(action: int) -> None:
    """Outside the space, or more than wait."""
    env = DynamicBatchingEnv(TINY)
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=f"action {action} in environment 0, decision 0: must be one that"):
        env.step(action)
    np.testing.assert_array_equal(before, env._problem.seen(0))
    env.step(1)


def test_waiting_for_nobody_is_refused() -> None:
    env = DynamicBatchingEnv(TINY, arrivals_s=[0.0])
    observation, _ = env.reset(seed=0)
    assert observation[DRAINING] == 1
    with pytest.raises(ValueError, match=r"action 0 in .*: \[1\]"):
        env.step(0)


def test_a_whole_episode_waits_less_for_larger_batches_at_full_load() -> None:
    """Physics: with arrivals all at once 12 requests take 4 batches of 3 (8 s), or 12 batches of 1 (12 s)."""
    for size, makespan_s in ((3, 8.0), (1, 12.0)):
        env = DynamicBatchingEnv(TINY, arrivals_s=np.zeros(12))
        observation, _ = env.reset(seed=0)
        assert observation[[QUEUE, OLDEST_S, GAP_S]].tolist() == [12, 0, 0]
        for _ in range(12 // size):
            *_, info = env.step(size)
        assert info["episode_metrics"]["makespan_s"] == makespan_s


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate_rps": 0.0}, "scenario.rate_rps = 0.0: must be positive"),
        ({"latency_s": ()}, "scenario.latency_s = (): must be"),
        ({"latency_s": (1.0, 0.9, 2.0)}, "latency_s of a batch of 2 = 0.9: must be at least that of 1: 1.0"),
        ({"latency_s": (1.0, np.inf, 2.0)}, "latency_s of a batch of 2 = inf: must be positive and finite"),
        ({"latency_s": (0.0, 1.0, 2.0)}, "latency_s of a batch of 1 = 0.0: must be positive"),
        ({"energy_j": (1.0,)}, "scenario.energy_j = 1 numbers: must be none or 3"),
        ({"energy_j": (1.0, -1.0, 2.0)}, "energy_j of a batch of 2 = -1.0: must be at least 0"),
        ({"min_batch": 4}, "scenario.min_batch = 4: must be from 1 to 3"),
        ({"response_weight": -1.0}, "scenario.response_weight = -1.0: must be at least 0"),
        ({"power_weight": np.nan}, "scenario.power_weight = nan: must be at least 0"),
        ({"requests": 0}, "scenario.requests = 0: must be at least 1"),
    ],
)
def test_bad_scenarios_are_refused_by_name(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as raised:
        replace(TINY, **change)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("arrivals_s", "said"),
    [
        ([], "must be (N,) with at least one arrival"),
        ([[1.0]], "has shape (1, 1)"),
        ([0.0, np.nan], "has nan, must be finite"),
        ([0.0, 2.0, 1.0], "1.0 comes after 2.0, must ascend"),
    ],
)
def test_bad_arrivals_are_refused(arrivals_s: list[float], said: str) -> None:
    with pytest.raises(InputError) as raised:
        DynamicBatchingEnv(TINY, arrivals_s)
    assert said in str(raised.value)


LARGEST = {"inoue_v100": (5770.65, 268.98), "inoue_p4": (1651.2, 61.8), "googlenet_p4": (2958.7, 60.7)}
"""Requests a second and watts of full batches one after another, from the published laws."""


@pytest.mark.parametrize("name", list_scenarios(DynamicBatchingConfig))
def test_presets_at_their_largest_batch(name: str) -> None:
    rps, watts = LARGEST[name]
    scenario = load_dynamic_batching(name)
    env = DynamicBatchingVectorEnv(1, scenario, arrivals_s=np.zeros(4 * scenario.max_batch))
    env.reset(seed=0)
    for _ in range(4):
        infos = env.step(np.array([scenario.max_batch]))[4]
    metrics = infos["final_info"]["episode_metrics"][0]
    assert metrics["throughput_rps"] == pytest.approx(rps, rel=1e-4)
    assert metrics["power_w"] == pytest.approx(watts, rel=1e-3)
    assert 0.65 * rps < scenario.rate_rps < 0.75 * rps


def test_a_scenario_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"generated_1xh100: is of LLM fleets, must be one of googlenet_p4"):
        gym.make(ENV_ID, scenario="generated_1xh100")
