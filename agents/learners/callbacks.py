"""What happens beside the learning itself: checkpoints, light load first, the progress bar."""

from collections.abc import Sequence
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from servegym.agents.learners.checkpoint import Training, save_checkpoint
from servegym.envs.scenario.traffic import Traffic


class SaveCheckpoints(BaseCallback):
    """Saves when a rollout is about to start, where all decisions counted have been learnt from."""

    def __init__(self, training: Training, run_dir: Path) -> None:
        super().__init__()
        self.training = training
        self.run_dir = run_dir

    def _on_training_start(self) -> None:
        self.due_at = self.model.num_timesteps + self.training["checkpoint_steps"]

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self.due_at:
            self._save()

    def _on_training_end(self) -> None:
        self._save()

    def _on_step(self) -> bool:
        return True

    def _save(self) -> None:
        save_checkpoint(self.model, self.training, self.run_dir)
        self.due_at = self.model.num_timesteps + self.training["checkpoint_steps"]


UNTIL = 0.5
"""Part of a run after which episodes come at the full rate (ours)."""


class LoadCurriculum(BaseCallback):
    """Light load first: the rate of training episodes rises linearly from `start_rate` to the scenario's.

    start_rate: as a share of it. The rate gets there after UNTIL of `total_steps`. An episode keeps the rate
    that it began with, and the first ones of a process begin with `start_rate`. At full load a policy that
    still chooses badly sees little but queues that grow without end.
    """

    def __init__(self, traffics: Sequence[Traffic], start_rate: float, total_steps: int) -> None:
        super().__init__()
        self.traffics = traffics
        self.start_rate = start_rate
        self.total_steps = total_steps
        self._set(start_rate)  # before the environments are reset

    def _on_rollout_start(self) -> None:
        risen = min(1.0, self.model.num_timesteps / (UNTIL * self.total_steps))
        self._set(self.start_rate + (1.0 - self.start_rate) * risen)

    def _on_step(self) -> bool:
        return True

    def _set(self, rate: float) -> None:
        for traffic in self.traffics:
            traffic.training_rate = rate


class ProgressBar(BaseCallback):
    """Decisions made out of `total_steps`, on a terminal only."""

    def __init__(self, total_steps: int) -> None:
        super().__init__()
        self.total_steps = total_steps

    def _on_training_start(self) -> None:
        start = self.model.num_timesteps
        self.bar = tqdm(total=self.total_steps, initial=start, unit=" steps", unit_scale=True, disable=None)

    def _on_step(self) -> bool:
        self.bar.update(self.training_env.num_envs)
        return True

    def _on_training_end(self) -> None:
        self.bar.close()
