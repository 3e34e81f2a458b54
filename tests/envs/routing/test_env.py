"""`servegym/Routing-v0`, the single environment."""

import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from servegym.agents.heuristics import ROUTERS, HeuristicPolicy, make_router
from servegym.costmodels.errors import InputError
from servegym.envs.checks import check_environment
from servegym.envs.routing.env import RoutingEnv
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.sim.llm.view import AVAILABLE

ENV_ID = "servegym.envs:servegym/Routing-v0"
SMALL = load_scenario("generated_8xh100", ("scenario.episode.requests=60", "scenario.fleet.replicas=3"))


def play(env: RoutingEnv, seed: int, choose) -> tuple[float, dict]:
    """Return and metrics of one episode."""
    observation, info = env.reset(seed=seed)
    total, terminated = 0.0, False
    while not terminated:
        observation, reward, terminated, truncated, info = env.step(choose(observation))
        assert not truncated
        total += reward
    return total, info["episode_metrics"]


@pytest.mark.parametrize("flat", [False, True])
def test_passes_the_checker(flat: bool) -> None:
    check_environment(ENV_ID, scenario=SMALL, episodes=2, flat=flat)


def test_metrics_say_how_many_kept_the_limits() -> None:
    """All with limits that nobody misses, none with those that nobody keeps; by class where there are any."""
    classes = "[{name:a,share:0.5,ttft_s:1.0e-9},{name:b,share:0.5}]"
    for words, expected in (
        ("scenario.objective.slo_ttft_s=1e9", 1.0),
        ("scenario.objective.slo_ttft_s=1e-9", 0.0),
        (f"scenario.workload.clients.slo_classes={classes}", None),
    ):
        overrides = ("scenario.episode.requests=60", "scenario.objective.slo_tpot_s=1e9", words)
        env = RoutingEnv(load_scenario("generated_8xh100", overrides))
        _, metrics = play(env, 0, lambda observation: 0)
        if expected is None:
            workload = env.scenario.traffic.train_workload(np.random.SeedSequence(0).spawn(1)[0])
            expected = np.mean(workload.slo_class == 1)
            assert 0 < expected < 1
        assert metrics["slo_attainment"] == pytest.approx(expected)
        assert metrics["goodput_rps"] == pytest.approx(expected * 60 / metrics["makespan_s"])


def test_passes_the_checker_of_stable_baselines3() -> None:
    """No error, and no advice but that a table of replicas needs a policy of its own (it has one)."""
    with warnings.catch_warnings(record=True) as advice:
        warnings.simplefilter("always")
        check_env_for_sb3(RoutingEnv(SMALL))
    assert all("unconventional shape" in str(warning.message) for warning in advice)


@pytest.mark.parametrize("charge", ["true", "false"])
@pytest.mark.parametrize("objective", ["ttft", "latency"])
def test_return_is_minus_the_metric(objective: str, charge: str) -> None:
    """The undiscounted return is minus the sum of TTFT (or latency) of the episode, shaped or not."""
    overrides = (
        "scenario.episode.requests=60",
        f"objective@scenario.objective={objective}",
        f"scenario.objective.charge_expected_wait={charge}",
    )
    env = RoutingEnv(load_scenario("generated_8xh100", overrides))
    total, metrics = play(env, 0, lambda observation: 0)
    expected = metrics[f"mean_{objective}_s"] * metrics["num_requests"]
    assert -total == pytest.approx(expected, rel=1e-9)


def test_reward_is_worse_under_congestion() -> None:
    """The same requests at four times the rate give a lower return, whatever the router does."""
    totals = []
    for rate_rps in (40.0, 160.0):
        overrides = (
            "scenario.episode.requests=200",
            "scenario.fleet.replicas=3",
            f"scenario.workload.rate_rps={rate_rps}",
        )
        turn = iter(range(10**6))
        totals.append(
            play(
                RoutingEnv(load_scenario("generated_8xh100", overrides)),
                0,
                lambda _, turn=turn: next(turn) % 3,
            )[0]
        )
    assert totals[1] < 1.5 * totals[0] < 0


def test_expected_waits_are_charged_when_they_begin() -> None:
    """Piling requests on one replica costs at once when charged, and only with time when not."""
    first_rewards = []
    for charge in ("true", "false"):
        overrides = (f"scenario.objective.charge_expected_wait={charge}", "scenario.fleet.replicas=3")
        env = RoutingEnv(load_scenario("generated_8xh100", overrides))
        env.reset(seed=0)
        first_rewards.append(sum(float(env.step(np.int64(0))[1]) for _ in range(20)))
    assert first_rewards[0] < 2 * first_rewards[1] < 0


def test_no_observation_holds_the_true_output_length() -> None:
    """Two workloads that differ only in output lengths look the same until the lengths take effect."""
    env = RoutingEnv(SMALL)
    workload = SMALL.traffic.train_workload(np.random.SeedSequence(0))
    env.reset(seed=0)
    seen = []
    for output_tokens in (50, 400):
        same_length = replace(workload, output_tokens=np.full(workload.num_requests, output_tokens))
        env._episodes.begin(0, same_length)
        seen.append([env.step(np.int64(0))[0]["replicas"].copy() for _ in range(5)])
    np.testing.assert_array_equal(seen[0], seen[1])


@pytest.mark.parametrize("action", [-1, 3, 100])
def test_illegal_action_is_refused_and_changes_nothing(action: int) -> None:
    env = RoutingEnv(SMALL)
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=f"action {action} in environment 0, decision 0: must be a replica"):
        env.step(np.int64(action))
    after = env._problem.seen(0)
    np.testing.assert_array_equal(before["replicas"], after["replicas"])
    env.step(np.int64(0))


def test_step_after_the_end_is_refused() -> None:
    env = RoutingEnv(SMALL)
    play(env, 0, lambda observation: 0)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.int64(0))


def test_slots_beyond_the_fleet_are_masked() -> None:
    """More rows than replicas: the others are zero, not available, and refused."""
    env = RoutingEnv(SMALL, slots=5)
    observation, _ = env.reset(seed=0)
    assert env.action_masks().tolist() == [True, True, True, False, False]
    assert (observation["replicas"][3:] == 0).all()
    assert observation["replicas"][:, AVAILABLE].tolist() == [1, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="must be a replica from 0 to 2"):
        env.step(np.int64(4))
    policy = HeuristicPolicy(make_router("random"))
    for _ in range(50):
        actions = policy.act({key: value[None] for key, value in observation.items()})
        assert actions[0] < 3
        observation, *_ = env.step(actions[0])


def test_too_few_slots_are_refused() -> None:
    with pytest.raises(InputError, match="slots = 2: must be at least the scenario's 3 replicas"):
        RoutingEnv(SMALL, slots=2)


def test_unknown_scenario_and_split_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="scenario = nosuch: must be one of .*generated_8xh100"):
        gym.make(ENV_ID, scenario="nosuch")
    with pytest.raises(InputError, match="split = valid: must be one of train, test"):
        RoutingEnv(SMALL, split="valid")


BY_OBSERVATION = [
    name for name in ROUTERS if not (make_router(name).needs or make_router(name).reads_beyond_observations)
]


@pytest.mark.parametrize("name", BY_OBSERVATION)
def test_policies_decide_as_the_simulator_does(name: str) -> None:
    """A heuristic over the environment's observations decides as in the compiled simulation."""
    env = RoutingEnv(SMALL, split="test")
    policy = HeuristicPolicy(make_router(name))
    policy.reset(1, 7)
    env.reset(seed=4)
    workload = SMALL.traffic.test_workload(4)
    observation, terminated = env._problem.seen(0), False
    while not terminated:
        actions = policy.act({key: value[None] for key, value in observation.items()})
        observation, _, terminated, _, _ = env.step(actions[0])
    expected = simulate(
        workload, make_router(name), num_replicas=3, engine=SMALL.engine, cost=SMALL.cost, seed=7
    )
    played = env._episodes.results(0)
    np.testing.assert_array_equal(played.replica, expected.replica)
    # a router that does not look lets replicas skip further at a time: other rounding, same events
    np.testing.assert_allclose(played.finish_s, expected.finish_s, rtol=1e-12)
