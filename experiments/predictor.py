"""`servegym predictor`: trains a predictor of output lengths and measures it on requests it never saw."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.agents.length_predictor import LOSSES, quality, train_predictor
from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import check_replaceable, output_folder
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.workloads import LearnedPredictor, Workload
from servegym.envs.workloads.learned_predictor import PREDICTOR_FILE
from servegym.envs.workloads.length_features import FEATURES, length_features
from servegym.experiments.configs import read_config
from servegym.experiments.provenance import provenance

REPORT_FILE = "report.json"
FILES = (PREDICTOR_FILE, REPORT_FILE)


@dataclass
class PredictorConfig:
    """Schema of `conf/predictor.yaml`."""

    scenario: ScenarioConfig = MISSING
    loss: str = MISSING
    seed: int = MISSING
    epochs: int = MISSING
    out: str = MISSING

    def __post_init__(self) -> None:
        for key, least in (("seed", 0), ("epochs", 1)):
            value = getattr(self, key)
            if value != MISSING and value < least:
                raise InputError(f"{key} = {value}: must be at least {least}")
        if self.loss != MISSING and self.loss not in LOSSES:
            raise InputError(f"loss = {self.loss}: must be one of {', '.join(LOSSES)}")


def predictor(config: DictConfig) -> dict[str, Any]:
    """Trains on the scenario's training part, measures on its test part, writes the folder `out`.

    The folder holds `predictor.npz`, which `scenario.workload.predictor=learned` reads, and `report.json`.
    Beside the predictor stand the median of the training part for every request, and the same training
    with the prompt as its only feature; and where requests follow up others, figures of those alone.
    """
    settings = read_config(config, PredictorConfig)
    out = Path(settings.out)
    check_replaceable(out, FILES)
    scenario = Scenario(settings.scenario)
    traffic = scenario.traffic
    training, test = traffic.training_part(settings.seed), traffic.test_workload(settings.seed)
    trained_on = None if traffic.held_out is None else dict(traffic.held_out)

    def trained(**more: Any) -> LearnedPredictor:
        return train_predictor(training, settings.loss, settings.seed, settings.epochs, **more)

    learned = trained(trained_on=trained_on)
    predictions: dict[str, npt.NDArray[Any]] = {
        "median": np.full(test.num_requests, np.median(training.output_tokens)),
        "prompt only": trained(groups=("prompt",)).predict(test),
        "learned": learned.predict(test),
    }
    report = {
        "scenario": scenario.name,
        "workload_source": traffic.source,
        "held_out": traffic.held_out,
        "loss": settings.loss,
        "seed": settings.seed,
        "num_training_requests": training.num_requests,
        "num_test_requests": test.num_requests,
        "test": _figures(test, predictions),
    }
    with output_folder(out, FILES) as folder:
        with (folder / PREDICTOR_FILE).open("wb") as file:
            learned.write(file)
        text = json.dumps({**report, "provenance": provenance()}, indent=2)
        (folder / REPORT_FILE).write_text(text + "\n")
    return {**report, "out": str(out)}


def show(answer: dict[str, Any]) -> None:
    """Prints the figures as a table, and how the predictor is used."""
    console = Console(soft_wrap=True)
    table = Table(title=f"{answer['loss']} on {answer['scenario']}: requests not trained on")
    for column in ("requests", "number", "predictor", "Kendall's tau", "MAE, tokens", "mean relative error"):
        table.add_column(column)
    for row in answer["test"]:
        table.add_row(
            row["requests"],
            f"{row['number']:,}",
            row["predictor"],
            f"{row['kendall_tau']:.3f}",
            f"{row['mae_tokens']:.1f}",
            f"{row['mean_relative_error']:.2f}",
        )
    console.print(table)
    console.print(
        "Next: scenario.workload.predictor=learned "
        f"+scenario.workload.predictor_parameters.path={answer['out']}"
    )


def _figures(test: Workload, predictions: dict[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    """One row for each predictor, over all requests and, where there are some, over those that follow up."""
    follows = length_features(test)[:, FEATURES.index("is_follow_up")] == 1
    subsets = {"all": np.ones(test.num_requests, dtype=bool)}
    if follows.sum() > 1:
        subsets["follow-ups"] = follows
    return [
        {
            "requests": subset,
            "number": int(rows.sum()),
            "predictor": name,
            **quality(test.output_tokens[rows], predicted[rows])._asdict(),
        }
        for subset, rows in subsets.items()
        for name, predicted in predictions.items()
    ]
