"""The native vector form: the same episodes as single environments, to the bit."""

import gymnasium as gym
import numpy as np
import pytest

from servegym.envs.batching.env import BatchingEnv
from servegym.envs.batching.vector import BatchingVectorEnv
from tests.envs.batching.test_env import SMALL


def legal(masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random legal action in each of the rows of `masks` (K, A)."""
    return (masks * rng.random(masks.shape)).argmax(axis=1)


@pytest.mark.compiled
@pytest.mark.parametrize("num_envs", [1, 3, 7])
def test_equal_to_single_environments(num_envs: int) -> None:
    """Environment k with seed s gives what a single one with seed s + k gives."""
    rng = np.random.default_rng(5)
    vector = BatchingVectorEnv(num_envs, SMALL)
    observations, _ = vector.reset(seed=0)
    singles = [BatchingEnv(SMALL) for _ in range(num_envs)]
    for k, single in enumerate(singles):
        observation, _ = single.reset(seed=k)
        np.testing.assert_array_equal(observations["requests"][k], observation["requests"])
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
                np.testing.assert_array_equal(infos["final_obs"][k]["engine"], observation["engine"])
                assert infos["final_info"]["episode_metrics"][k] == info["episode_metrics"]
                observation, _ = single.reset()
            for key in ("engine", "requests"):
                np.testing.assert_array_equal(observations[key][k], observation[key])


@pytest.mark.parametrize("flat", [True, False])
def test_made_by_gymnasium(flat: bool) -> None:
    """`make_vec` gives the native form, with observations in its space."""
    env = gym.make_vec("servegym.envs:servegym/Batching-v0", num_envs=2, scenario=SMALL, flat=flat)
    assert isinstance(env.unwrapped, BatchingVectorEnv)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.metadata["autoreset_mode"] == gym.vector.AutoresetMode.SAME_STEP


def test_copies_unless_told_otherwise() -> None:
    """With copy=False the arrays are reused; by default they are the caller's."""
    for copy in (True, False):
        env = BatchingVectorEnv(2, SMALL, copy=copy)
        first, _ = env.reset(seed=0)
        kept = first["requests"].copy()
        env.step(np.zeros(2, np.int64))
        assert np.array_equal(first["requests"], kept) == copy


def test_illegal_action_names_the_environment_and_changes_nothing() -> None:
    env = BatchingVectorEnv(3, SMALL, copy=False)
    before, _ = env.reset(seed=0)
    kept = before["requests"].copy()
    with pytest.raises(ValueError, match="action 9 in environment 2, decision 0"):
        env.step(np.array([0, 0, 9]))
    np.testing.assert_array_equal(before["requests"], kept)
