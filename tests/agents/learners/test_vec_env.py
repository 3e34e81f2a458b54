"""The adapter to Stable-Baselines3 shows it the episodes of the native vector environment, and its masks."""

import numpy as np
import pytest
from sb3_contrib import MaskablePPO

from servegym.agents.learners.vec_env import SB3VecEnv
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.view import PROMPT_TOKENS

SMALL = load_scenario("generated_8xh100", ("scenario.episode.requests=30", "scenario.fleet.replicas=3"))


def test_same_episodes_as_the_native_environment() -> None:
    """Observations, rewards and ends are equal; only episodes that end have something in their infos."""
    adapter, native = SB3VecEnv(RoutingVectorEnv(4, SMALL)), RoutingVectorEnv(4, SMALL)
    adapter.seed(5)
    observation, (expected, _) = adapter.reset(), native.reset(seed=5)
    returns, ends = np.zeros(4), 0
    for actions in np.random.default_rng(0).integers(0, 3, (75, 4)):  # two and a half episodes
        for key in ("request", "replicas"):
            np.testing.assert_array_equal(observation[key], expected[key])
        observation, rewards, dones, infos = adapter.step(actions)
        expected, native_rewards, terminations, _, native_infos = native.step(actions)
        np.testing.assert_array_equal(rewards, native_rewards)
        np.testing.assert_array_equal(dones, terminations)
        returns += rewards
        for k, info in enumerate(infos):
            if not dones[k]:
                assert info == {}
                continue
            ends += 1
            assert info["episode"] == {"r": pytest.approx(returns[k]), "l": 30}
            assert info["episode_metrics"] == native_infos["final_info"]["episode_metrics"][k]
            final = native_infos["final_obs"][k]
            np.testing.assert_array_equal(info["terminal_observation"]["replicas"], final["replicas"])
        returns[dones] = 0.0
    assert ends == 2 * 4


def test_observations_outlive_the_next_step() -> None:
    """Learners store an observation after the step that follows it."""
    env = SB3VecEnv(RoutingVectorEnv(2, SMALL))
    env.seed(0)
    first = env.reset()
    prompts = first["request"][:, PROMPT_TOKENS].copy()
    second, *_ = env.step(np.zeros(2, np.int64))
    np.testing.assert_array_equal(first["request"][:, PROMPT_TOKENS], prompts)
    assert not np.array_equal(second["request"][:, PROMPT_TOKENS], prompts)


def test_maskable_ppo_acts_legally() -> None:
    """It finds the masks: two of five slots hold no replica, and choosing one of those raises."""
    env = SB3VecEnv(RoutingVectorEnv(4, SMALL, slots=5))
    model = MaskablePPO("MultiInputPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu")
    model.learn(256)
    assert model.num_timesteps == 256
    with pytest.raises(ValueError, match="must be a replica from 0 to 2"):
        model.learn(256, use_masking=False)
