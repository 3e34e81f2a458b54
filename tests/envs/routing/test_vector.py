"""The native vector form: the same episodes as single environments, to the bit."""

import gymnasium as gym
import numpy as np
import pytest

from servegym.envs.routing.env import RoutingEnv
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import load_scenario

SMALL = load_scenario("generated_8xh100", ("scenario.episode.requests=40", "scenario.fleet.replicas=3"))


@pytest.mark.parametrize("num_envs", [1, 3, 7])
def test_equal_to_single_environments(num_envs: int) -> None:
    """Environment k with seed s gives what a single one with seed s + k gives."""
    seed, num_steps = 0, 100  # two and a half episodes
    actions = np.random.default_rng(5).integers(0, 3, (num_steps, 7))
    vector = RoutingVectorEnv(num_envs, SMALL)
    observations, _ = vector.reset(seed=seed)
    singles = [RoutingEnv(SMALL) for _ in range(num_envs)]
    for k, single in enumerate(singles):
        observation, _ = single.reset(seed=seed + k)
        np.testing.assert_array_equal(observations["replicas"][k], observation["replicas"])
    ends = 0
    for step in range(num_steps):
        observations, rewards, terminations, truncations, infos = vector.step(actions[step, :num_envs])
        assert not truncations.any()
        assert bool(infos) == terminations.any()
        for k, single in enumerate(singles):
            observation, reward, terminated, _, info = single.step(actions[step, k])
            assert (rewards[k], terminations[k]) == (reward, terminated)
            if terminated:
                ends += 1
                np.testing.assert_array_equal(infos["final_obs"][k]["replicas"], observation["replicas"])
                assert infos["final_info"]["episode_metrics"][k] == info["episode_metrics"]
                observation, _ = single.reset()
            for key in ("request", "replicas"):
                np.testing.assert_array_equal(observations[key][k], observation[key])
    assert ends == 2 * num_envs


def test_made_by_gymnasium() -> None:
    """`make_vec` gives the native form, with observations in its space."""
    env = gym.make_vec("servegym.envs:servegym/Routing-v0", num_envs=2, scenario=SMALL)
    assert isinstance(env.unwrapped, RoutingVectorEnv)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.metadata["autoreset_mode"] == gym.vector.AutoresetMode.SAME_STEP


def test_copies_unless_told_otherwise() -> None:
    """With copy=False the arrays are reused; by default they are the caller's."""
    for copy in (True, False):
        env = RoutingVectorEnv(2, SMALL, copy=copy)
        first, _ = env.reset(seed=0)
        kept = first["replicas"].copy()
        env.step(np.zeros(2, np.int64))
        assert np.array_equal(first["replicas"], kept) == copy


def test_illegal_action_names_the_environment() -> None:
    env = RoutingVectorEnv(3, SMALL)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action 9 in environment 2, decision 0"):
        env.step(np.array([0, 1, 9]))
