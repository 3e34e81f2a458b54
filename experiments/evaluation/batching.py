"""What `servegym evaluate` does with a run that was trained to batch: it has rivals of its own."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from servegym.agents.learners.families import check_fits, family_of
from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import output_folder
from servegym.envs.elastic_scenario.config import ElasticScenarioConfig
from servegym.experiments.evaluation.deferred_batching import (
    evaluate_deferred_batching,
    show_deferred_batching,
)
from servegym.experiments.evaluation.dynamic_batching import evaluate_dynamic_batching, show_dynamic_batching
from servegym.experiments.evaluation.elastic_sequence_parallel import (
    evaluate_elastic_sequence_parallel,
    show_elastic_sequence_parallel,
)
from servegym.experiments.json_answer import to_json
from servegym.experiments.run_directory import CONFIG_FILE, load_run_config, load_run_policy

FILES = ("results.csv", "evaluation.json")
"""What such an evaluation writes."""

KEYS = ("run_dir", "seeds", "out")
"""What may be given to it."""


class BatchingEvaluation(NamedTuple):
    """Of the runs of one environment: the answer with rows for results.csv, and how it is shown."""

    evaluate: Callable[[Path, Sequence[int]], tuple[dict[str, Any], Sequence[tuple[object, ...]]]]
    show: Callable[[dict[str, Any], Console], None]


EVALUATIONS = {
    "servegym/DynamicBatching-v0": BatchingEvaluation(evaluate_dynamic_batching, show_dynamic_batching),
    "servegym/DeferredBatching-v0": BatchingEvaluation(evaluate_deferred_batching, show_deferred_batching),
    "servegym/ElasticSequenceParallel-v0": BatchingEvaluation(
        evaluate_elastic_sequence_parallel, show_elastic_sequence_parallel
    ),
}
"""By environment."""


def is_of_batching(run_dir: Path) -> bool:
    """Whether a folder is a training run of an environment in EVALUATIONS."""
    if not (run_dir / CONFIG_FILE).is_file():
        return False
    return family_of(load_run_config(run_dir).agent.network).environment in EVALUATIONS


def evaluate_batching(
    run_dir: Path, seeds: Sequence[int], out: Path, scenario: ElasticScenarioConfig | None = None
) -> dict[str, Any]:
    """Evaluates a run on the scenario that it was trained on, and writes FILES to `out`.

    scenario: another one, for networks of elastic sequence parallelism, which fit any.

    Returns environment, scenario, run_dir, seeds, steps trained, `out`, and what the evaluation says.
    InputError for keys that do not apply, and for a run that is not complete.
    """
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    given = [word.lstrip("+").partition("=")[0] for word in words]
    network = load_run_config(run_dir).agent.network
    keys = (*KEYS, "scenario") if family_of(network).schema is ElasticScenarioConfig else KEYS
    if others := [key for key in given if key.partition(".")[0] not in keys]:
        raise InputError(
            f"run_dir = {run_dir}: was trained to batch, its rivals are set: leave out {', '.join(others)}"
        )
    torch.set_num_threads(1)  # a second thread made these small products ten times as slow
    _, origin = load_run_policy(run_dir)
    environment = family_of(origin["network"]).environment
    if scenario is not None:
        check_fits(network, scenario)
    with output_folder(out, FILES) as folder:
        if scenario is None:
            answer, rows = EVALUATIONS[environment].evaluate(run_dir, seeds)
        else:
            answer, rows = evaluate_elastic_sequence_parallel(run_dir, seeds, scenario)
        answer = {
            "environment": environment,
            "scenario": origin["scenario"] if scenario is None else scenario.name,
            "run_dir": str(run_dir),
            "steps": origin["steps"],
            "seeds": list(seeds),
            **answer,
            "out": str(out),
        }
        with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        (folder / "evaluation.json").write_text(to_json(answer) + "\n")
    return answer


def show_batching(answer: dict[str, Any], console: Console) -> None:
    """Prints the table of an evaluation, and where it is."""
    EVALUATIONS[answer["environment"]].show(answer, console)
    console.print(f"Results: {answer['out']}", soft_wrap=True)
