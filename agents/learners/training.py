"""The course of a training run, whatever learns: its checkpoints, going on after a kill, its log."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.learners.callbacks import LoadCurriculum, ProgressBar, SaveCheckpoints
from servegym.agents.learners.checkpoint import (
    Learner,
    Training,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from servegym.agents.learners.process import set_up_learning
from servegym.agents.learners.rollouts import FastPPO
from servegym.costmodels.errors import InputError
from servegym.costmodels.progress import progress


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
    model.set_random_seed(_first_seed(model))
    return _learn(model, training, run_dir, callbacks)


def resume(
    run_dir: Path,
    vec_env: VecEnv,
    callbacks: Sequence[BaseCallback] = (),
    tensorboard_dir: Path | None = None,
    algorithm: type[BaseAlgorithm] = FastPPO,
) -> BaseAlgorithm:
    """Goes on from the newest checkpoint of `run_dir` to the run's total number of steps.

    What comes out is what the run would have come to had it not been stopped, to the bit. A finished run is
    returned as it is. InputError where there is no checkpoint.
    """
    set_up_learning()
    model, training = load_checkpoint(run_dir, vec_env, algorithm, _first_seed, _rate_setter(callbacks))
    log_to(model, tensorboard_dir)
    if model._last_obs is None:
        model.set_random_seed(_first_seed(model))
    return _learn(model, training, run_dir, callbacks)


def _learn(model: Learner, training: Training, run_dir: Path, callbacks: Sequence[BaseCallback]) -> Learner:
    remaining = training["total_steps"] - model.num_timesteps
    if remaining <= 0:
        return model
    set_up_learning()
    _rate_setter(callbacks)(model.num_timesteps)
    with progress("Learning", training["total_steps"], "steps", model.num_timesteps) as advance:
        ours = [SaveCheckpoints(training, run_dir), ProgressBar(advance)]
        model.learn(remaining, callback=[*ours, *callbacks], reset_num_timesteps=False)
    save_checkpoint(model, training, run_dir)
    return model


def _first_seed(model: BaseAlgorithm) -> int:
    """What a run's generators and environments are seeded with when it begins."""
    return int(np.random.SeedSequence((model.seed or 0, 0)).generate_state(1)[0] >> 1)


def _rate_setter(callbacks: Sequence[BaseCallback]) -> Callable[[int], None]:
    """Sets the rate of training episodes to what it is after a number of decisions."""
    curricula = [callback for callback in callbacks if isinstance(callback, LoadCurriculum)]

    def set_rates(decisions: int) -> None:
        for curriculum in curricula:
            curriculum.set_after(decisions)

    return set_rates


def log_to(model: BaseAlgorithm, tensorboard_dir: Path | None) -> None:
    """Lets a model write its figures into a folder for TensorBoard, or nowhere."""
    formats = [] if tensorboard_dir is None else ["tensorboard"]
    model.set_logger(configure(None if tensorboard_dir is None else str(tensorboard_dir), formats))
