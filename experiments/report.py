"""`servegym report`: one page of tables and figures about any runs, and each figure as SVG and CSV."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import check_replaceable, output_folder
from servegym.experiments.configs import read_config
from servegym.experiments.reporting.cost_models import cost_model_section
from servegym.experiments.reporting.evaluations import evaluation_section
from servegym.experiments.reporting.gather import gather
from servegym.experiments.reporting.goodput import goodput_section
from servegym.experiments.reporting.load_curves import load_section
from servegym.experiments.reporting.page import FILES, PAGE_FILE, write_report
from servegym.experiments.reporting.reproduction import reproduction_section
from servegym.experiments.reporting.run_tables import run_table_section, unreadable_section
from servegym.experiments.reporting.runs import FINISHED, Run, find_runs
from servegym.experiments.reporting.section import Section
from servegym.experiments.reporting.simulations import simulated, simulation_section
from servegym.experiments.reporting.studies import study_section
from servegym.experiments.reporting.suites import suite_section
from servegym.experiments.reporting.training import training_section


@dataclass
class ReportConfig:
    """Schema of `conf/report.yaml`."""

    runs: Any = MISSING  # one folder or pattern, or a list of them
    title: str | None = None
    out: str = MISSING


def report(config: DictConfig) -> dict[str, Any]:
    """Reads `runs` and writes the page and its figures to `out`.

    Returns `page`, how many runs of each kind it shows, `left_out` (folder, status, problem) and the number
    of figures. InputError for a word that leads to no run, before anything is written.
    """
    settings = read_config(config, ReportConfig)
    given = [settings.runs] if isinstance(settings.runs, str) else settings.runs
    if not isinstance(given, list) or not given or not all(isinstance(each, str) for each in given):
        raise InputError(f"runs = {settings.runs}: must be folders of runs, at least one")
    out = Path(settings.out)
    check_replaceable(out, FILES)
    runs = [run for run in find_runs(given) if run.path.resolve() != out.resolve()]
    runs, sections = sections_of(runs)
    title = settings.title or f"Report on {_count([run for run in runs if run.status == FINISHED])}"
    with output_folder(out, FILES) as folder:
        figures = write_report(folder, title, _introduction(runs), sections)
    left_out = [run for run in runs if run.status != FINISHED]
    return {
        "page": str(out / PAGE_FILE),
        "out": str(out),
        "runs": dict(Counter(run.kind for run in runs if run.status == FINISHED)),
        "left_out": [{"run": run.name, "status": run.status, "problem": run.problem} for run in left_out],
        "sections": [section.title for section in sections],
        "figures": figures,
    }


def sections_of(runs: Sequence[Run]) -> tuple[list[Run], list[Section]]:
    """The runs, those that cannot be read marked so, and the sections that the others have something for."""
    runs, found = gather(runs)
    groups = simulated(found["simulate"])
    goodputs = [found[kind] for kind in ("goodput", "goodput_elastic", "evaluate batching")]
    sections = (
        evaluation_section(found["evaluate"], runs),
        suite_section(found["evaluate suite"]),
        simulation_section(groups),
        load_section(groups),
        study_section(found["study"]),
        goodput_section([each for several in goodputs for each in several]),
        training_section(found["train"]),
        cost_model_section(found["validate"]),
        run_table_section(runs),
        unreadable_section(runs),
        reproduction_section(runs),
    )
    return runs, [section for section in sections if section is not None]


def show(answer: dict[str, Any]) -> None:
    """Prints what the page shows, what it leaves out, and where it is."""
    console = Console(soft_wrap=True, highlight=False)
    counts = ", ".join(f"{count} of {kind}" for kind, count in answer["runs"].items()) or "none"
    console.print(f"Runs: {counts}; {answer['figures']} figures")
    for each in answer["left_out"]:
        console.print(f"Left out: {each['run']}, {each['status']}: {each['problem']}", markup=False)
    console.print(f"Page to open in a browser: {answer['page']}")


def _introduction(runs: Sequence[Run]) -> list[str]:
    """What was run, and how to read the page."""
    shown = [run for run in runs if run.status == FINISHED]
    left_out = len(runs) - len(shown)
    scenarios = list(dict.fromkeys(name for run in shown if (name := _about(run))))
    about = f" They are about {_enumerated(scenarios)}." if scenarios else ""
    lost = f" {_number(left_out, 'run')} could not be shown: see the end of the page." if left_out else ""
    return [
        f"This page shows {_count(shown)}, made with servegym, which simulates fleets of GPU servers and the "
        f"policies that decide where requests go and what runs when.{about}{lost}",
        "Times are of simulated requests. TTFT, time to first token: from the arrival of a request to its "
        "first output token. TPOT, time per output token: the mean gap between the tokens after the "
        "first. Latency: from arrival to the last token. Intervals are of 95 %: made anew from other "
        "seeds, 95 in 100 of them would hold the true mean. With fewer than five seeds they are too narrow.",
        "Move over a figure to read values, click a name in its legend to hide or show it, double-click "
        "to see it alone, drag to look closer. Every figure is there for download as SVG and as a table "
        "(CSV), in the page itself and in the folder figures beside it. The page needs no network.",
    ]


def _about(run: Run) -> str:
    """The scenario or suite of a run; nothing where it does not say."""
    scenario, suite = run.config.get("scenario"), run.config.get("suite")
    if isinstance(scenario, dict):
        return str(scenario.get("name", ""))
    name = suite.get("name") if isinstance(suite, dict) else run.record.provenance.get("suite")
    return f"the suite {name}" if name else ""


NOUNS = {
    "simulate": "simulation",
    "train": "training run",
    "study": "study",
    "evaluate": "evaluation",
    "evaluate suite": "evaluation of a suite",
    "evaluate batching": "evaluation of batching",
    "goodput": "goodput search",
    "validate": "validation",
}


def _count(runs: Sequence[Run]) -> str:
    counts = Counter(NOUNS.get(run.kind, f"run of {run.kind}") for run in runs)
    return _enumerated([_number(count, noun) for noun, count in counts.items()]) or "no runs"


def _number(count: int, noun: str) -> str:
    if count == 1:
        return f"{count} {noun}"
    first, space, rest = noun.partition(" of ")
    plural = (
        f"{first[:-1]}ies" if first.endswith("dy") else f"{first}es" if first.endswith("ch") else f"{first}s"
    )
    return f"{count} {plural}{space}{rest}"


def _enumerated(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
