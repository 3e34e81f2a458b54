"""The average-reward form of PPO, and light load first."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from servegym.agents.learners.by_scenario import NormalisedByScenario
from servegym.agents.learners.callbacks import LoadCurriculum
from servegym.agents.learners.centring import CentredRewards
from servegym.agents.learners.config import PPOConfig
from servegym.agents.learners.ppo import build_ppo
from servegym.agents.learners.training import train
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm import view
from tests.agents.queue_game import QueueGame

TINY = {"hidden": 16, "n_steps": 32, "batch_size": 256, "learning_rate": 3e-3}


class Patience(QueueGame):
    """Without end: replica 0 costs nothing now, but `later` at each of the following `delay` decisions."""

    later, delay = 0.75, 4

    def __init__(self) -> None:
        super().__init__(num_envs=16, num_replicas=2)
        self.action_space = spaces.Discrete(2)

    def reset(self) -> dict[str, np.ndarray]:
        self.owed = np.zeros((self.num_envs, self.delay))
        return self._seen(super().reset())

    def _seen(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        observation["replicas"][:] = 0.0
        observation["setting"][:] = 0.0
        observation["replicas"][..., view.AVAILABLE] = 1.0
        observation["replicas"][:, 1, view.RUNNING] = 4.0  # so that the two can be told apart
        observation["request"][:] = 1.0
        observation["request"][:, 0] = 100.0 * self.owed.sum(axis=1)
        return observation

    def step_wait(self):  # type: ignore[no-untyped-def]
        due = self.owed[:, 0].copy()
        self.owed = np.concatenate([self.owed[:, 1:], np.zeros((self.num_envs, 1))], axis=1)
        self.owed[self.actions == 0] += self.later
        rewards = -due - (self.actions == 1) * 1.0
        return self._seen(self._draw()), rewards, np.zeros(self.num_envs, bool), [{}] * self.num_envs


@pytest.mark.parametrize("differential", [False, True])
def test_without_discount_it_pays_now_what_would_cost_more_later(tmp_path: Path, differential: bool) -> None:
    """Three later against one now; a discount of 0.2 a decision sees 0.2 of it and puts off."""
    config = PPOConfig(network="mlp", gamma=0.2, differential=differential, gae_lambda=0.98, **TINY)  # type: ignore[arg-type]
    game = Patience()
    model = train(build_ppo(config, game, seed=0), 40 * 512, tmp_path)
    assert isinstance(model.env, CentredRewards) == differential
    chosen, _ = model.predict(game.now, deterministic=True)  # type: ignore[arg-type]
    assert chosen.mean() == (1.0 if differential else 0.0)


def test_the_average_is_that_of_the_policy(tmp_path: Path) -> None:
    config = PPOConfig(network="mlp", differential=True, **TINY)  # type: ignore[arg-type]
    game = Patience()
    model = build_ppo(config, game, seed=0)
    seen: list[float] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(float(model.env.old_reward.mean()))  # type: ignore[union-attr]
            return True

    train(model, 4 * 512, tmp_path, [Look()])
    assert isinstance(model.env, CentredRewards)
    assert model.env.mean_reward == pytest.approx(np.mean(seen), rel=0.05)


def test_each_scenario_has_its_own_average() -> None:
    game = Patience()
    part_of = np.arange(game.num_envs) % 2
    env = NormalisedByScenario(game, part_of, 0.9, centred=True)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        rewards = np.where(part_of == 0, -1.0, -100.0) * rng.exponential(1.0, game.num_envs)
        env._update_reward(rewards)
    assert env.means == pytest.approx([-1.0, -100.0], rel=0.05)
    few, many = (env.normalize_reward(scale * np.array([-1.0, -100.0] * 8)) for scale in (1.0, 2.0))
    assert few == pytest.approx(np.zeros(16), abs=0.05)
    assert many[0] == pytest.approx(many[1], rel=0.2)  # twice the average is as bad in both
    assert many[0] < -0.2


def test_episodes_come_faster_as_training_goes_on(tmp_path: Path) -> None:
    scenario = load_scenario("generated_8xh100", ("scenario.episode.rate_spread=0",))
    traffic, rates = scenario.traffic, []

    class Look(BaseCallback):
        def _on_rollout_start(self) -> None:
            rates.append(traffic.training_rate)

        def _on_step(self) -> bool:
            return True

    total = 8 * 512
    seed = np.random.SeedSequence(0)
    full = traffic.train_workload(np.random.SeedSequence(0))
    curriculum = LoadCurriculum([traffic], 0.5, total)
    light = traffic.train_workload(seed)
    np.testing.assert_allclose(light.arrival_s, full.arrival_s / 0.5)
    assert np.array_equal(light.output_tokens, full.output_tokens)
    config = PPOConfig(**TINY)  # type: ignore[arg-type]
    train(build_ppo(config, QueueGame(), seed=0), total, tmp_path, [curriculum, Look()])
    assert rates == pytest.approx([0.5, 0.625, 0.75, 0.875, 1.0, 1.0, 1.0, 1.0])
    test = traffic.test_workload(0)
    traffic.training_rate = 0.5
    np.testing.assert_array_equal(traffic.test_workload(0).arrival_s, test.arrival_s)
