"""From the logger of the learners to the trackers, and what has to be remembered between two processes."""

import json
import numbers
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from servegym.experiments.run_directory import write_text
from servegym.experiments.tracking.config import MlflowConfig, TrackingConfig, WandbConfig
from servegym.experiments.tracking.tracker import Outcome, Subject, Tracker

TRACKING_FILE = "tracking.json"
"""In the run directory: of each tracker its store, the id of the run there, and the last step logged."""


class TrackerWriter(KVWriter):
    """Hands on the numbers that the logger has, but for steps that the tracker knows from before a kill.

    A tracker that fails is left alone for the rest of the process, and the run goes on.
    """

    def __init__(self, name: str, tracker: Tracker, known: "_Known") -> None:
        self.name, self.tracker, self.known = name, tracker, known
        self.first_step = known.step + 1
        self.works = True

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """The logger's call."""
        figures = {
            key: float(value)
            for key, value in key_values.items()
            if isinstance(value, numbers.Real) and self.name not in (key_excluded.get(key) or ())
        }
        if not figures or step < self.first_step or not self.works:
            return
        with self._allowed_to_fail():
            self.tracker.log(figures, step)
            self.known.logged(step)

    def close(self) -> None:
        """Part of the logger's interface; `finish` says how the run ended."""

    def finish(self, outcome: Outcome) -> None:
        """Ends the run in the tracker."""
        with self._allowed_to_fail():
            self.tracker.finish(outcome)

    @contextmanager
    def _allowed_to_fail(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of whatever kind: no tracker may end hours of training
            self.works = False
            reason = " ".join(str(error).split())
            print(f"servegym: {self.name} fails, the run goes on without it: {reason}", file=sys.stderr)


class _Attach(BaseCallback):
    """Adds writers to the logger of whatever learns."""

    def __init__(self, writers: Sequence[TrackerWriter]) -> None:
        super().__init__()
        self.writers = writers

    def _on_training_start(self) -> None:
        self.logger.output_formats.extend(self.writers)

    def _on_step(self) -> bool:
        return True


class _Known:
    """What the run directory knows of a run in one tracker."""

    def __init__(self, path: Path, name: str, store: str) -> None:
        self.path, self.name = path, name
        found = _read(path).get(name, {})
        same = found.get("store") == store
        self.store = store
        self.run_id: str | None = found["run_id"] if same else None
        self.step: int = found["step"] if same else -1

    def begun(self, run_id: str) -> None:
        """The run has this id from now on."""
        self.run_id = run_id
        self._write()

    def logged(self, step: int) -> None:
        """All figures up to this step are there."""
        self.step = step
        self._write()

    def _write(self) -> None:
        entry = {"store": self.store, "run_id": self.run_id, "step": self.step}
        write_text(self.path, json.dumps({**_read(self.path), self.name: entry}, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError):
        found = json.loads(path.read_text())
        assert isinstance(found, dict)
        return found
    return {}


@contextmanager
def tracked_run(config: TrackingConfig, run_dir: Path, subject: Subject) -> Iterator[list[BaseCallback]]:
    """Callbacks by which the trackers chosen follow a training run, and its end in them.

    A run that goes on does so in its trackers too. InputError where a tracker cannot be used.
    """
    writers: list[TrackerWriter] = []
    outcome: Outcome = "failed"
    try:
        for name, of_tracker in config.chosen.items():
            known = _Known(run_dir / TRACKING_FILE, name, _store(of_tracker))
            tracker = _open(of_tracker, subject, known.run_id)
            known.begun(tracker.run_id)
            writers.append(TrackerWriter(name, tracker, known))
        yield [_Attach(writers)] if writers else []
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "killed"
        raise
    finally:
        for writer in writers:
            writer.finish(outcome)


def _store(config: MlflowConfig | WandbConfig) -> str:
    """Where a run id means something."""
    if isinstance(config, MlflowConfig):
        return f"{config.tracking_uri} {config.experiment}"
    return f"{config.entity or ''}/{config.project}"


def _open(config: MlflowConfig | WandbConfig, subject: Subject, run_id: str | None) -> Any:
    if isinstance(config, MlflowConfig):
        from servegym.experiments.tracking.mlflow_run import MlflowRun  # each takes seconds to load

        return MlflowRun(config, subject, run_id)
    from servegym.experiments.tracking.wandb_run import WandbRun

    return WandbRun(config, subject, run_id)
