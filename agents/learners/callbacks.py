"""What happens beside the learning itself: checkpoints, light load first, the progress bar."""

from collections.abc import Sequence
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from servegym.agents.learners.checkpoint import Training, save_checkpoint
from servegym.agents.learners.interrupts import stop_asked
from servegym.costmodels.progress import Advance
from servegym.envs.scenario.traffic import Traffic


class SaveCheckpoints(BaseCallback):
    """Saves when a rollout is about to start, where all decisions counted have been learnt from.

    Whoever is asked to stop (`interrupts.py`) stops there too, with a checkpoint of what is learnt so far.
    """

    def __init__(self, training: Training, run_dir: Path) -> None:
        super().__init__()
        self.training = training
        self.run_dir = run_dir

    def _on_training_start(self) -> None:
        self.due_at = self.model.num_timesteps + self.training["checkpoint_steps"]

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self.due_at or stop_asked():
            save_checkpoint(self.model, self.training, self.run_dir)
            self.due_at = self.model.num_timesteps + self.training["checkpoint_steps"]
        if stop_asked():
            raise KeyboardInterrupt

    def _on_step(self) -> bool:
        return True


UNTIL = 0.5
"""Part of a run after which episodes come at the full rate (ours)."""


class LoadCurriculum(BaseCallback):
    """Light load first: the rate of training episodes rises linearly from `start_rate` to the scenario's.

    start_rate: as a share of it. The rate gets there after UNTIL of `total_steps`. An episode keeps the rate
    that it began with. At full load a policy that still chooses badly sees little but queues that grow
    without end.
    """

    def __init__(self, traffics: Sequence[Traffic], start_rate: float, total_steps: int) -> None:
        super().__init__()
        self.traffics = traffics
        self.start_rate = start_rate
        self.total_steps = total_steps
        self.set_after(0)  # before the environments are reset

    def _on_step(self) -> bool:
        self.set_after(self.model.num_timesteps)
        return True

    def set_after(self, decisions: int) -> None:
        """Sets the rate to what it is after so many decisions of the run."""
        risen = min(1.0, decisions / (UNTIL * self.total_steps))
        for traffic in self.traffics:
            traffic.training_rate = self.start_rate + (1.0 - self.start_rate) * risen


class ProgressBar(BaseCallback):
    """Tells a bar how many decisions have been made."""

    def __init__(self, advance: Advance) -> None:
        super().__init__()
        self.advance = advance

    def _on_step(self) -> bool:
        self.advance.to(self.num_timesteps)
        return True
