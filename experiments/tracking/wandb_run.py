"""A run in Weights & Biases, offline unless told otherwise."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from servegym.costmodels.errors import InputError
from servegym.experiments.tracking.config import WandbConfig
from servegym.experiments.tracking.tracker import Outcome, Subject

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

EXIT_CODES: dict[Outcome, int] = {"finished": 0, "failed": 1, "killed": 130}

STEPS = "steps"
"""The figure by which all others are drawn: decisions."""


class WandbRun:
    """Its configuration is that of the run, with the provenance beside it.

    Offline, every process that goes on with a run leaves a folder of its own; `wandb sync` makes one run of
    those that have the same id.
    """

    def __init__(self, config: WandbConfig, subject: Subject, run_id: str | None) -> None:
        """Goes on with the run `run_id`, or begins one. InputError where the service cannot be used."""
        begun = run_id is not None
        self.run_id = run_id or uuid.uuid4().hex[:8]
        try:
            Path(config.folder).mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                mode="online" if config.mode == "online" else "offline",
                dir=config.folder,
                id=self.run_id,
                name=subject.name,
                resume="allow" if begun and config.mode == "online" else None,
                config={**subject.parameters, "provenance": dict(subject.provenance)},
                reinit="create_new",  # another run of this process may be open
                settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
            )
        except (wandb.errors.Error, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"tracking=wandb, project {config.project}: cannot begin ({reason})") from error
        self._run.define_metric("*", step_metric=STEPS)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """A row of the history."""
        self._run.log({**figures, STEPS: step})

    def finish(self, outcome: Outcome) -> None:
        """Writes, and online uploads, what is still to come."""
        self._run.finish(EXIT_CODES[outcome])
