"""What the runs of a report hold, read once; a run that cannot be read is left out, whatever is wrong."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from servegym.experiments.reporting.cost_models import read_validation
from servegym.experiments.reporting.evaluations import read_evaluation
from servegym.experiments.reporting.goodput import read_goodputs
from servegym.experiments.reporting.runs import DAMAGED, FINISHED, Run
from servegym.experiments.reporting.simulations import read_times
from servegym.experiments.reporting.studies import read_study
from servegym.experiments.reporting.suites import read_suite
from servegym.experiments.reporting.training import read_curve

READERS: dict[str, Callable[[Run], Any]] = {
    "simulate": read_times,
    "study": read_study,
    "train": read_curve,
    "evaluate": read_evaluation,
    "evaluate suite": read_suite,
    "evaluate batching": read_goodputs,
    "goodput": read_goodputs,
    "goodput_elastic": read_goodputs,
    "validate": read_validation,
}
"""By kind of run; of others a report has their configuration and metrics only."""

DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError)
"""What reading files raises that hold something else than their names say."""

Gathered = dict[str, list[tuple[Run, Any]]]
"""By kind of run: each run with what its reader returned."""


def gather(runs: Iterable[Run]) -> tuple[list[Run], Gathered]:
    """All runs, those that cannot be read as damaged, and what the others hold."""
    found: Gathered = {kind: [] for kind in READERS}
    known = []
    for run in runs:
        read = READERS.get(run.kind)
        if run.status == FINISHED and read is not None:
            try:
                found[run.kind].append((run, read(run)))
            except DAMAGE as error:
                words = " ".join(str(error).split()) or "no reason given"
                run = replace(run, status=DAMAGED, problem=f"cannot be read: {type(error).__name__}: {words}")
        known.append(run)
    return known, found
