"""PPO from Stable-Baselines3, or with masked actions from sb3-contrib."""

from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.learners.by_scenario import normalised
from servegym.agents.learners.centring import CentredRewards
from servegym.agents.learners.config import PPOConfig
from servegym.agents.learners.families import family_of
from servegym.agents.learners.normalised_rewards import NormalisedRewards
from servegym.agents.learners.rollouts import FastMaskablePPO, FastPPO
from servegym.agents.learners.training import log_to
from servegym.agents.networks.policy import MaskedPolicy, RouterPolicy
from servegym.costmodels.errors import InputError


def ppo_for(network: str) -> type[FastPPO] | type[FastMaskablePPO]:
    """The algorithm that trains a network of NETWORKS."""
    return FastMaskablePPO if family_of(network).masked else FastPPO


def build_ppo(
    config: PPOConfig, vec_env: VecEnv, seed: int, tensorboard_dir: Path | None = None
) -> FastPPO | FastMaskablePPO:
    """A fresh PPO on `vec_env`; every draw of the network and the learner comes from `seed`.

    Rewards are divided by the running standard deviation of the discounted return and clipped to
    [-10, 10], so that seconds of any size suit the same step sizes; observations stay raw. Episode returns
    are logged as `vec_env` reports them, in its own unit. In the differential form (Wan, Naik, Sutton, arXiv
    2006.16318) rewards count against their average, and what follows is not discounted; `gamma` then only
    says over how many decisions returns spread, by which rewards are divided. InputError where the batch size
    does not divide the decisions of an update.
    """
    decisions = config.n_steps * vec_env.num_envs
    if decisions % config.batch_size:
        raise InputError(
            f"agent.batch_size = {config.batch_size}: must divide agent.n_steps times the number of "
            f"environments, {config.n_steps} x {vec_env.num_envs} = {decisions}"
        )
    family = family_of(config.network)
    if family.work is not None and not hasattr(getattr(vec_env, "env", None), "part_of"):
        env: NormalisedRewards = CentredRewards(vec_env, family.work, config.gamma)
    else:
        env = normalised(vec_env, config.gamma, config.differential)
    policy: Any = MaskedPolicy if family.masked else RouterPolicy
    model = ppo_for(config.network)(
        policy,
        env,
        learning_rate=LinearSchedule(config.learning_rate, config.final_learning_rate, 1.0),
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=1.0 if config.differential else config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        policy_kwargs={
            "network": config.network,
            "hidden": config.hidden,
            "layers": config.layers,
            "optimizer_kwargs": {"eps": 1e-5, "fused": True},  # eps as in the original PPO code
        },
        seed=seed,
        device="cpu",  # networks this small are slower on a GPU
    )
    log_to(model, tensorboard_dir)
    return model
