"""The training curve: how the episodes that ended between two updates went, in a file and in TensorBoard."""

import csv
import time
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

COLUMNS = ("steps", "elapsed_s", "episodes", "mean_return")
"""Decisions made, seconds since this process began to train, episodes ended, the mean of their returns."""


class TrainingCurve(BaseCallback):
    """Appends a row to `path` after every rollout in which an episode ended: COLUMNS, and means of `metrics`.

    A resumed run first drops the rows after its checkpoint, which it is about to live through again.
    """

    def __init__(self, path: Path, metrics: tuple[str, ...]) -> None:
        super().__init__()
        self.path = path
        self.metrics = metrics
        self._episodes: list[list[float]] = []

    def _on_training_start(self) -> None:
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in list(csv.reader(file))[1:] if int(row[0]) <= self.model.num_timesteps]
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows([(*COLUMNS, *self.metrics), *rows])
        self._started = time.monotonic()

    def _on_step(self) -> bool:
        for k in np.flatnonzero(self.locals["dones"]):
            info = self.locals["infos"][k]
            metrics = info["episode_metrics"]
            self._episodes.append([info["episode"]["r"], *(metrics[name] for name in self.metrics)])
        return True

    def _on_rollout_end(self) -> None:
        if not self._episodes:
            return
        means = np.mean(self._episodes, axis=0)
        for name, value in zip((COLUMNS[3], *self.metrics), means, strict=True):
            self.logger.record(f"episodes/{name}", float(value))
        self.logger.dump(self.num_timesteps)  # some learners would do so at a later step only
        elapsed_s = time.monotonic() - self._started
        row = [
            self.num_timesteps,
            f"{elapsed_s:.3f}",
            len(self._episodes),
            *(f"{mean:.6g}" for mean in means),
        ]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)
        self._episodes.clear()
