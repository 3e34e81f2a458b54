"""What happens beside the learning itself: checkpoints and the progress bar."""

from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from servegym.agents.learners.checkpoint import Training, save_checkpoint


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
