"""PPO from Stable-Baselines3, or with masked actions from sb3-contrib: build, train, resume."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from servegym.agents.learners.callbacks import ProgressBar, SaveCheckpoints
from servegym.agents.learners.centring import CentredRewards
from servegym.agents.learners.checkpoint import (
    Learner,
    Training,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from servegym.agents.learners.config import PPOConfig
from servegym.agents.learners.families import family_of
from servegym.agents.networks.policy import MaskedPolicy, RouterPolicy
from servegym.costmodels.errors import InputError


def algorithm_of(network: str) -> type[PPO] | type[MaskablePPO]:
    """The algorithm that trains a network of NETWORKS."""
    return MaskablePPO if family_of(network).masked else PPO


def build_ppo(
    config: PPOConfig, vec_env: VecEnv, seed: int, tensorboard_dir: Path | None = None
) -> PPO | MaskablePPO:
    """A fresh PPO on `vec_env`; every draw of the network and the learner comes from `seed`.

    Rewards are divided by the running standard deviation of the discounted return and clipped to
    [-10, 10], so that seconds of any size suit the same step sizes; observations stay raw. Episode
    returns are logged as `vec_env` reports them, in its own unit. InputError where the batch size does not
    divide the decisions of an update.
    """
    decisions = config.n_steps * vec_env.num_envs
    if decisions % config.batch_size:
        raise InputError(
            f"agent.batch_size = {config.batch_size}: must divide agent.n_steps times the number of "
            f"environments, {config.n_steps} x {vec_env.num_envs} = {decisions}"
        )
    family = family_of(config.network)
    if family.work is not None:
        env: VecNormalize = CentredRewards(vec_env, family.work, config.gamma)
    else:
        env = VecNormalize(vec_env, norm_obs=False, clip_reward=10.0, gamma=config.gamma)
    policy: Any = MaskedPolicy if family.masked else RouterPolicy
    model = algorithm_of(config.network)(
        policy,
        env,
        learning_rate=LinearSchedule(config.learning_rate, config.final_learning_rate, 1.0),
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
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
    _log_to(model, tensorboard_dir)
    return model


def train(
    model: Learner,
    total_steps: int,
    run_dir: Path,
    callbacks: Sequence[BaseCallback] = (),
    checkpoint_steps: int = 100_000,
) -> Learner:
    """Trains a fresh model for `total_steps` decisions, rounded up to whole updates.

    Saves a checkpoint in `run_dir` before the first update, about every `checkpoint_steps` decisions and at
    the end. InputError where `run_dir` has checkpoints already.
    """
    if checkpoints(run_dir):
        raise InputError(f"{run_dir}: has checkpoints of an earlier run; resume it or use another directory")
    for name, value in (("total_steps", total_steps), ("checkpoint_steps", checkpoint_steps)):
        if value < 1:
            raise InputError(f"{name} = {value}: must be at least 1")
    training = Training(total_steps=total_steps, checkpoint_steps=checkpoint_steps)
    save_checkpoint(model, training, run_dir)  # a run killed early starts over from the same weights
    return _learn(model, training, run_dir, callbacks)


def resume(
    run_dir: Path,
    vec_env: VecEnv,
    callbacks: Sequence[BaseCallback] = (),
    tensorboard_dir: Path | None = None,
    algorithm: type[OnPolicyAlgorithm] = PPO,
) -> OnPolicyAlgorithm:
    """Goes on from the newest checkpoint of `run_dir` to the run's total number of steps.

    Weights, optimiser, counters, schedules and reward statistics are those of the checkpoint; episodes
    start afresh, with traffic not seen before. A finished run is returned as it is. InputError
    where there is no checkpoint.
    """
    model, training = load_checkpoint(run_dir, vec_env, algorithm)
    _log_to(model, tensorboard_dir)
    return _learn(model, training, run_dir, callbacks)


def _learn(model: Learner, training: Training, run_dir: Path, callbacks: Sequence[BaseCallback]) -> Learner:
    remaining = training["total_steps"] - model.num_timesteps
    if remaining <= 0:
        return model
    torch.set_num_threads(1)  # measured fastest at this size, and sums come out the same anywhere
    # The stream belongs to the seed and the step at which it starts: a resumed run repeats no traffic.
    stream = np.random.SeedSequence((model.seed or 0, model.num_timesteps))
    model.set_random_seed(int(stream.generate_state(1)[0] >> 1))
    ours = [SaveCheckpoints(training, run_dir), ProgressBar(training["total_steps"])]
    model.learn(remaining, callback=[*ours, *callbacks], reset_num_timesteps=False)
    return model


def _log_to(model: OnPolicyAlgorithm, tensorboard_dir: Path | None) -> None:
    formats = [] if tensorboard_dir is None else ["tensorboard"]
    model.set_logger(configure(None if tensorboard_dir is None else str(tensorboard_dir), formats))
