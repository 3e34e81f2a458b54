"""Checkpoints of a training run: whole or absent, whenever the process is killed.

`RUN/checkpoints/step_NNN/` holds `model.zip` (weights, optimiser, counters, schedules, as
Stable-Baselines3 saves them), `returns.pkl` (statistics of the reward normalisation) and `training.json`
(what the run still has to do). It is written under another name and renamed when complete.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TypedDict, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from servegym.costmodels.errors import InputError

Learner = TypeVar("Learner", bound=BaseAlgorithm)

KEPT = 2
"""Checkpoints that stay: the newest, and one before it."""


class Training(TypedDict):
    """How long the run is and how often it saves, in environment steps (decisions)."""

    total_steps: int
    checkpoint_steps: int


def checkpoints(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step_*"))


def save_checkpoint(model: BaseAlgorithm, training: Training, run_dir: Path) -> Path:
    """Writes one checkpoint of `model` and removes all but the last KEPT."""
    folder = run_dir / "checkpoints"
    partial, complete = folder / "partial", folder / f"step_{model.num_timesteps:012d}"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    partial.mkdir(parents=True)
    model.save(partial / "model.zip")
    normalise = model.get_vec_normalize_env()
    assert normalise is not None, "all algorithms here normalise rewards"
    normalise.save(str(partial / "returns.pkl"))
    (partial / "training.json").write_text(json.dumps(training))
    os.replace(partial, complete)
    for old in checkpoints(run_dir)[:-KEPT]:
        shutil.rmtree(old)
    return complete


def load_checkpoint(run_dir: Path, vec_env: VecEnv, algorithm: type[Learner]) -> tuple[Learner, Training]:
    """The newest checkpoint of a run, to go on in `vec_env` with the algorithm that saved it.

    InputError where there is none, or where the environment differs in spaces from the saved one.
    """
    found = checkpoints(run_dir)
    if not found:
        raise InputError(f"{run_dir}: no checkpoint to go on from; train this run from its start")
    newest = found[-1]
    try:
        env = VecNormalize.load(str(newest / "returns.pkl"), vec_env)
        model = algorithm.load(newest / "model.zip", env, device="cpu")
    except (ValueError, AssertionError) as error:
        raise InputError(f"{newest}: does not fit this environment: {error}") from error
    return model, json.loads((newest / "training.json").read_text())
