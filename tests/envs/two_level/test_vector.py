"""The native vector form: the same episodes as single environments, to the bit."""

import gymnasium as gym
import numpy as np
import pytest

from servegym.envs.two_level.env import TwoLevelEnv
from servegym.envs.two_level.vector import TwoLevelVectorEnv
from tests.envs.batching.test_vector import legal
from tests.envs.two_level.test_env import SMALL


@pytest.mark.compiled
@pytest.mark.parametrize("num_envs", [1, 3])
def test_equal_to_single_environments(num_envs: int) -> None:
    """Environment k with seed s gives what a single one with seed s + k gives."""
    rng = np.random.default_rng(5)
    vector = TwoLevelVectorEnv(num_envs, SMALL)
    observations, _ = vector.reset(seed=0)
    singles = [TwoLevelEnv(SMALL) for _ in range(num_envs)]
    for k, single in enumerate(singles):
        single.reset(seed=k)
    ends = np.zeros(num_envs, int)
    while ends.min() < 2:
        masks = vector.action_masks()
        actions = legal(masks, rng)
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        assert not truncations.any()
        assert bool(infos) == terminations.any()
        for k, single in enumerate(singles):
            np.testing.assert_array_equal(masks[k], single.action_masks())
            observation, reward, terminated, _, info = single.step(actions[k])
            assert (rewards[k], terminations[k]) == (reward, terminated)
            if terminated:
                ends[k] += 1
                np.testing.assert_array_equal(infos["final_obs"][k]["replicas"], observation["replicas"])
                assert infos["final_info"]["episode_metrics"][k] == info["episode_metrics"]
                observation, _ = single.reset()
            for key, value in observation.items():
                np.testing.assert_array_equal(observations[key][k], value, err_msg=key)


def test_made_by_gymnasium() -> None:
    """`make_vec` gives the native form, with observations in its space."""
    env = gym.make_vec("servegym.envs:servegym/TwoLevel-v0", num_envs=2, scenario=SMALL)
    assert isinstance(env.unwrapped, TwoLevelVectorEnv)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.metadata["autoreset_mode"] == gym.vector.AutoresetMode.SAME_STEP


def test_illegal_action_names_the_environment() -> None:
    env = TwoLevelVectorEnv(3, SMALL)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action 9 in environment 2, decision 0"):
        env.step(np.array([0, 0, 9]))
