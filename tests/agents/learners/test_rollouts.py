"""Our loop and buffer learn the same weights as Stable-Baselines3's, and keep what they were given."""

from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from servegym.agents.learners.config import PPOConfig
from servegym.agents.learners.ppo import build_ppo
from servegym.agents.learners.rollouts import FastPPO, Rollouts
from servegym.agents.learners.vec_env import SB3VecEnv
from servegym.agents.networks.action_network import Inputs
from servegym.agents.networks.policy import MaskedPolicy, RouterPolicy
from servegym.envs.dynamic_batching.scenario import load_dynamic_batching
from servegym.envs.dynamic_batching.vector import DynamicBatchingVectorEnv
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import load_scenario

FEW = load_scenario("generated_8xh100", ("scenario.episode.requests=30", "scenario.fleet.replicas=3"))


class PlainPolicy(RouterPolicy):
    """With SB3's distribution."""

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        logits, values = self.network.scores(obs)
        distribution = self.action_dist.proba_distribution(action_logits=logits)
        actions = distribution.get_actions(deterministic)
        return actions, values.unsqueeze(-1), distribution.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        logits, values = self.network.scores(obs)
        distribution = self.action_dist.proba_distribution(action_logits=logits)
        return values.unsqueeze(-1), distribution.log_prob(actions), distribution.entropy()


def sb3_twin(model: OnPolicyAlgorithm, config: PPOConfig, vec_env: VecEnv) -> OnPolicyAlgorithm:
    """The same, all of Stable-Baselines3 but the network."""
    masked = isinstance(model, MaskablePPO)
    algorithm: Any = MaskablePPO if masked else PPO
    keys = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "vf_coef")
    twin: OnPolicyAlgorithm = algorithm(
        MaskedPolicy if masked else PlainPolicy,
        VecNormalize(vec_env, norm_obs=False, gamma=config.gamma),
        learning_rate=model.lr_schedule,
        clip_range=config.clip_range,
        policy_kwargs=model.policy_kwargs,
        seed=0,
        device="cpu",
        **{key: getattr(config, key) for key in keys},
    )
    return twin


def same_weights(one: OnPolicyAlgorithm, other: OnPolicyAlgorithm) -> bool:
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("network", ["mlp", "gnn", "attention"])
def test_same_weights_as_stable_baselines3(network: str) -> None:
    config = PPOConfig(network=network, hidden=8, n_steps=32, batch_size=64, n_epochs=2)
    model = build_ppo(config, SB3VecEnv(RoutingVectorEnv(8, FEW)), seed=0)
    twin = sb3_twin(model, config, SB3VecEnv(RoutingVectorEnv(8, FEW)))
    assert same_weights(model, twin)
    before = next(model.policy.parameters()).clone()
    for learner in (model, twin):
        learner.set_random_seed(0)
        learner.learn(3 * 256)
    assert not torch.equal(before, next(model.policy.parameters()))
    assert same_weights(model, twin)
    assert model.ep_info_buffer == twin.ep_info_buffer
    assert model.ep_info_buffer


def test_same_weights_as_sb3_contrib_with_masks() -> None:
    scenario = load_dynamic_batching("inoue_v100")
    config = PPOConfig(network="queue_mlp", hidden=8, n_steps=32, batch_size=64, n_epochs=2)
    model = build_ppo(config, SB3VecEnv(DynamicBatchingVectorEnv(8, scenario)), seed=0)
    model.env.work = lambda observation, actions: np.zeros(8)  # type: ignore[union-attr]  # not centred
    twin = sb3_twin(model, config, SB3VecEnv(DynamicBatchingVectorEnv(8, scenario)))
    for learner in (model, twin):
        learner.set_random_seed(0)
        learner.learn(3 * 256)
    assert same_weights(model, twin)


@pytest.mark.parametrize("form", ["array", "dict", "inputs"])
def test_minibatches_hold_every_decision_once_in_any_form(form: str) -> None:
    steps, environments = 5, 3
    env = RoutingVectorEnv(environments, FEW)
    rollouts = Rollouts(
        steps, env.single_observation_space, env.single_action_space, "cpu", n_envs=environments
    )
    for again in (0, 100):  # a second update overwrites the first
        rollouts.reset()
        for step in range(steps):
            number = torch.arange(environments) + 10.0 * step + again
            wide = torch.stack([number, -number], dim=1)
            seen: Any = {"array": wide, "dict": {"wide": wide}, "inputs": Inputs((wide, number > 20))}[form]
            masks = (number > 30).unsqueeze(1).numpy()
            actions = number.long().numpy()
            starts = np.zeros(environments, np.bool_)
            rollouts.add(seen, actions, number.numpy(), starts, number, -number, action_masks=masks)
        rollouts.compute_returns_and_advantage(torch.zeros(environments), np.ones(environments, np.bool_))
    batches = list(rollouts.get(4))
    assert [len(batch.actions) for batch in batches] == [4, 4, 4, 3]
    drawn = torch.cat([batch.actions for batch in batches])
    assert drawn.sort().values.tolist() == [
        100 + 10 * s + k for s in range(steps) for k in range(environments)
    ]
    for batch in batches:
        seen = batch.observations
        wide = seen if form == "array" else seen["wide"] if form == "dict" else seen[0]
        assert torch.equal(wide[:, 0], batch.actions.float())
        assert torch.equal(wide[:, 1], -batch.old_values)
        assert torch.equal(batch.old_log_prob, -batch.old_values)
        assert batch.action_masks is not None
        assert torch.equal(batch.action_masks[:, 0], batch.actions > 30)
        if form == "inputs":
            assert isinstance(seen, Inputs)
            assert torch.equal(seen[1], batch.actions > 20)


def test_a_callback_that_says_stop_is_obeyed() -> None:
    model = build_ppo(PPOConfig(n_steps=32, batch_size=64), SB3VecEnv(RoutingVectorEnv(4, FEW)), seed=0)
    assert isinstance(model, FastPPO)
    model.learn(1000, callback=lambda local, _: model.num_timesteps < 40)
    assert model.num_timesteps == 40
