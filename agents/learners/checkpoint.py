"""Checkpoints of a training run: whole or absent, whenever the process is killed, and nothing left out.

`RUN/checkpoints/step_NNN/` holds `model.zip` (weights, optimiser, counters, schedules, as
Stable-Baselines3 saves them), `returns.pkl` (statistics of the reward normalisation), `memory.pkl` (what the
algorithm remembers to learn from, if anything), `course.npz` (the actions taken so far, and the state of
the random generators) and `training.json` (what the run still has to do). It is written under another name
and renamed when complete.

Environments are deterministic: the actions taken so far, played again from the run's first seed, put every
episode back to where it was. That costs the environments' share of the time of a run, a few per cent, and
what follows is what would have followed without the kill, to the bit.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from servegym.agents.learners.normalised_rewards import NormalisedRewards
from servegym.costmodels.errors import InputError

Learner = TypeVar("Learner", bound=BaseAlgorithm)

KEPT = 2
"""Checkpoints that stay: the newest, and one before it; of a finished run the last one only."""


class Training(TypedDict):
    """How long the run is and how often it saves, in environment steps (decisions)."""

    total_steps: int
    checkpoint_steps: int


def checkpoints(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step_*"))


def save_checkpoint(model: BaseAlgorithm, training: Training, run_dir: Path) -> Path:
    """Writes one checkpoint of `model` and removes all but the last KEPT.

    The one at the end of the run holds no memory, and stays alone.
    """
    finished = model.num_timesteps >= training["total_steps"]
    folder = run_dir / "checkpoints"
    partial, complete = folder / "partial", folder / f"step_{model.num_timesteps:012d}"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    partial.mkdir(parents=True)
    model.save(partial / "model.zip")
    env = model.get_vec_normalize_env()
    assert isinstance(env, NormalisedRewards), "all algorithms here normalise rewards"
    env.save(str(partial / "returns.pkl"))
    if hasattr(model, "save_replay_buffer") and not finished:
        model.save_replay_buffer(partial / "memory.pkl")
    np.savez(partial / "course.npz", actions=env.actions_taken(), returns=env.returns, **_generators())
    (partial / "training.json").write_text(json.dumps(training))
    if complete.exists():  # of the same step, by a run that went on from it
        shutil.rmtree(complete)
    os.replace(partial, complete)
    for old in checkpoints(run_dir)[: -1 if finished else -KEPT]:
        shutil.rmtree(old)
    return complete


def load_checkpoint(
    run_dir: Path,
    vec_env: VecEnv,
    algorithm: type[Learner],
    seed_at_start: Callable[[Learner], int],
    before_step: Callable[[int], None],
) -> tuple[Learner, Training]:
    """The newest checkpoint of a run, to go on in `vec_env` with the algorithm that saved it.

    seed_at_start: of a model, what its environments were seeded with when the run began. before_step: told
    the decisions made so far before each step that is played again. The random generators of the process are
    left as they were when the checkpoint was written. InputError where there is none, or where the
    environments are other ones, or play otherwise than those of the run.
    """
    found = checkpoints(run_dir)
    if not found:
        raise InputError(f"{run_dir}: no checkpoint to go on from; train this run from its start")
    newest = found[-1]
    if not (newest / "course.npz").is_file():
        raise InputError(f"{newest}: was written by another version of servegym; train this run anew")
    course = np.load(newest / "course.npz")
    try:
        env = VecNormalize.load(str(newest / "returns.pkl"), vec_env)
        model = algorithm.load(newest / "model.zip", env, device="cpu", force_reset=False)
    except (ValueError, AssertionError) as error:
        raise InputError(f"{newest}: does not fit this environment: {error}") from error
    if (newest / "memory.pkl").is_file():
        remembering: Any = model
        remembering.load_replay_buffer(newest / "memory.pkl")
    assert isinstance(env, NormalisedRewards)
    if model._last_obs is not None:  # otherwise nothing has been played yet
        _play_again(model, env, course["actions"], seed_at_start(model), before_step)
        if not _same(env.old_obs, model._last_obs):
            raise InputError(
                f"{newest}: its episodes take another course now, as the simulator or the workload has "
                "changed; train this run anew"
            )
        env.returns = course["returns"]
    _restore_generators(course)
    return model, json.loads((newest / "training.json").read_text())


def _play_again(
    model: BaseAlgorithm,
    env: NormalisedRewards,
    actions: np.ndarray,
    seed: int,
    before_step: Callable[[int], None],
) -> None:
    """Brings the environments, from their first seed, to where `actions` (T, K) lead."""
    before_step(0)
    env.seed(seed)
    observation: Any = env.reset()
    relive = getattr(model, "relive", None)
    for step, taken in enumerate(actions.astype(np.int64)):
        before_step(step * env.num_envs)
        following, dones = env.play_again(taken)
        if relive is not None:
            relive(observation, taken, dones)
        observation = following
    before_step(len(actions) * env.num_envs)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
    return np.array_equal(one, other)


def _generators() -> dict[str, Any]:
    """The states of the process's generators that learning draws from."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().numpy(),
        "numpy_keys": keys,
        "numpy_rest": np.array([position, has_gauss, gauss], np.float64),
    }


def _restore_generators(course: Any) -> None:
    position, has_gauss, gauss = course["numpy_rest"].tolist()
    state = ("MT19937", course["numpy_keys"], int(position), int(has_gauss), gauss)
    np.random.set_state(state)  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(course["torch"]))
