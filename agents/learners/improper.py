"""Improper policy gradient: which of several published routers to follow (Zaki et al., arXiv 2105.00210).

The paper ascends the value of a softmax mixture with gradients estimated from perturbed weights; its sequel
(arXiv 2207.09090) takes an actor and a critic, as this does: the gradient of the logarithm of the mixture's
probabilities times an advantage (GAE), one step a rollout.
"""

from pathlib import Path

import torch
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.learners.by_scenario import normalised
from servegym.agents.learners.config import ImproperConfig
from servegym.agents.learners.rollouts import FastA2C
from servegym.agents.learners.training import log_to
from servegym.agents.networks.policy import RouterPolicy


def build_improper(
    config: ImproperConfig, vec_env: VecEnv, seed: int, tensorboard_dir: Path | None = None
) -> FastA2C:
    """A fresh learner on `vec_env`, whose rewards are normalised as `build_ppo` says."""
    model = FastA2C(
        RouterPolicy,
        normalised(vec_env, config.gamma),
        learning_rate=LinearSchedule(config.learning_rate, config.final_learning_rate, 1.0),
        n_steps=config.n_steps,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        use_rms_prop=False,
        normalize_advantage=True,
        policy_kwargs={
            "network": config.network,
            "hidden": config.hidden,
            "layers": config.layers,
            "optimizer_class": torch.optim.Adam,
        },
        seed=seed,
        device="cpu",
    )
    log_to(model, tensorboard_dir)
    return model
