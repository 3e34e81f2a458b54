"""A run in MLflow, by its client alone: without the global run that its tutorials use."""

import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path

from servegym.costmodels.errors import InputError
from servegym.experiments.tracking.config import MlflowConfig
from servegym.experiments.tracking.tracker import Outcome, Subject

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it tells of every table that it makes

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

STATUS: dict[Outcome, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}

SQLITE = "sqlite:///"

MOST_PARAMETERS = 100
"""That a client may log at once."""


class MlflowRun:
    """Parameters are the configuration, tags the provenance, metrics the figures by decisions."""

    def __init__(self, config: MlflowConfig, subject: Subject, run_id: str | None) -> None:
        """Goes on with the run `run_id`, or begins one. InputError where the store cannot be used."""
        try:
            self._client = _client(config.tracking_uri)
            if run_id is None:
                experiment = self._experiment(config.experiment)
                run_id = self._client.create_run(experiment, run_name=subject.name).info.run_id
                self._describe(run_id, subject)
            else:
                self._client.update_run(run_id, status="RUNNING")
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"tracking.mlflow.tracking_uri = {config.tracking_uri}: cannot be used ({reason})"
            ) from error
        self.run_id = str(run_id)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Metrics of a step."""
        now_ms = time.time_ns() // 1_000_000
        self._client.log_batch(
            self.run_id, metrics=[Metric(name, value, now_ms, step) for name, value in figures.items()]
        )

    def finish(self, outcome: Outcome) -> None:
        """The status that MLflow shows."""
        self._client.set_terminated(self.run_id, STATUS[outcome])

    def _experiment(self, name: str) -> str:
        """The id of the experiment, which is made where there is none."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run has just made it
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _describe(self, run_id: str, subject: Subject) -> None:
        parameters = [Param(name, str(value)) for name, value in subject.parameters.items()]
        for first in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(run_id, params=parameters[first : first + MOST_PARAMETERS])
        tags = [RunTag(name, str(value)) for name, value in subject.provenance.items()]
        self._client.log_batch(run_id, tags=tags)


def _client(tracking_uri: str) -> MlflowClient:
    """A client of the store. A file of SQLite gets its folder, and its tables by one process at a time."""
    if not tracking_uri.startswith(SQLITE):
        return MlflowClient(tracking_uri=tracking_uri)
    path = Path(tracking_uri.removeprefix(SQLITE)).absolute()  # MLflow remembers stores by their name alone
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return MlflowClient(tracking_uri=f"{SQLITE}{path}")
