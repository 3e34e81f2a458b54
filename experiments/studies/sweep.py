"""A sweep: one command run for many configurations, by whichever of Hydra's launchers, and what came out.

A sweep has a folder, named after its words unless hydra.sweep.dir says otherwise:

sweep.json       the command and its words                jobs/NNNNNN.json   how a run went, with its answer
logs/NNNNNN.log  what a run said on the way               study.db           Optuna's study, of sweeper=optuna

The same words again go on where a sweep was stopped: runs that are finished answer at once.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.table import Table

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_file import write_text
from servegym.costmodels.progress import progress
from servegym.envs.scenario.compose import CONFIG_MODULE
from servegym.experiments.json_answer import plain
from servegym.experiments.studies.command import Command
from servegym.experiments.studies.digest import digest_of
from servegym.experiments.studies.task_words import TaskWords

MULTIRUN = ("-m", "--multirun")
SWEEP_FILE, JOBS_FOLDER, LOGS_FOLDER = "sweep.json", "jobs", "logs"

GROUPS = ("launcher=", "sweeper=")
HOW = (*GROUPS, "hydra/", "hydra.")
"""Beginnings of words that say how a sweep is carried out, not what is run."""

CallHydra = Callable[[str, list[str], Any], None]
"""Starts Hydra with a command's name, words and what is to be called with the configuration."""

WATCHED_EVERY_S = 0.5
"""How often finished runs are counted for the progress bar."""

SHOWN = ("score", "mean_ttft_s", "p99_ttft_s", "mean_latency_s", "goodput_rps", "mean_return")
"""Columns of the table of runs, as far as answers have them."""

ATTEMPTS = 3
"""Times that a launcher may break down under a sweep, as when one of its processes is killed."""


@dataclass(frozen=True)
class SweepJob:
    """What a launcher calls with the configuration of a run, in whatever process on whatever machine.

    folder: of the sweep; cwd: what the paths of the configuration are relative to; both absolute.
    """

    command: Command
    folder: str
    cwd: str

    def __call__(self, config: DictConfig) -> float:
        """Runs the command and writes how it went; returns the score that sweeper=optuna minimises."""
        os.chdir(self.cwd)
        number = int(HydraConfig.get().job.num)
        job: dict[str, Any] = {"number": number, "words": _words_of_job()}
        log = Path(self.folder) / LOGS_FOLDER / f"{number:06d}.log"
        score = float("nan")
        with log.open("a", buffering=1) as file:
            try:
                with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                    answer = self.command.run(config)
                score = self.command.score(answer)
                job |= {"status": "finished", "answer": plain(answer), "score": plain(score)}
            except InputError as error:
                job |= {"status": "refused", "error": str(error)}
            except Exception as error:
                traceback.print_exc(file=file)
                job |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        write_text(Path(self.folder) / JOBS_FOLDER / f"{number:06d}.json", json.dumps(job) + "\n")
        return score


def is_sweep(words: list[str]) -> bool:
    """Whether the words of a command ask for many runs."""
    return bool(set(MULTIRUN) & set(words))


def run_sweep(command: Command, words: list[str], call_hydra: CallHydra) -> dict[str, Any]:
    """Runs a sweep; returns what `show` prints. Bad input is refused before any run begins, by InputError."""
    how = [word for word in words if word.startswith(HOW)]
    of_runs = [word for word in words if word not in (*MULTIRUN, *how)]
    searching = "sweeper=optuna" in how
    if searching and not command.can_be_searched:
        raise InputError(
            f"sweeper = optuna: {command.name} has no score to minimise; train and tune have one"
        )
    _check(command, of_runs, how)
    if searching:
        _quieten_optuna()
    folder = _sweep_folder(command.name, of_runs, how)
    _begin(folder, command.name, of_runs)
    job = SweepJob(command, str(folder), os.getcwd())
    where = [word for word in how if not word.startswith("hydra.sweep.dir=")] + [f"hydra.sweep.dir={folder}"]
    try:
        with _watched(folder, None if searching else _number_of_runs(of_runs)):
            _call_patiently(lambda: _multirun(command, of_runs, where, job, call_hydra))
    except KeyboardInterrupt:
        ended = len(list((folder / JOBS_FOLDER).glob("*.json")))
        print(f"servegym: sweep stopped after {ended} runs; the same words go on with it", file=sys.stderr)
        raise
    return _answer(command.name, folder, searching)


def _multirun(command: Command, words: list[str], how: list[str], job: Any, call_hydra: CallHydra) -> None:
    TaskWords.words = [*(word for word in how if word.startswith(GROUPS)), *words]
    call_hydra(command.name, ["-m", TaskWords.OVERRIDE, *how], job)


def _quieten_optuna() -> None:
    """Its trials are in our table, and it needs the SQLAlchemy that it has."""
    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")
    from optuna.logging import set_verbosity

    set_verbosity(logging.WARNING)


def _check(command: Command, words: list[str], how: list[str]) -> None:
    """Composes and reads runs of the sweep, each value of each key in one of them at least.

    InputError for what a run would refuse, and where runs would write the same folder. Of ranges the ends
    stand for all; Hydra's sweeper composes every run once more before the first begins.
    """
    folders: dict[str, list[str]] = {}
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        for variant in _variants(words):
            config = compose(command.name, [*how, *variant], return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            with open_dict(config):
                del config["hydra"]
            folder = command.check(config)
            if folder in folders and folders[folder] != variant:
                raise InputError(f"{folder}: several runs of the sweep would write this folder")
            if folder is not None:
                folders[folder] = variant


def _variants(words: list[str]) -> list[list[str]]:
    """The words of runs: all first values, then each other value by itself; of ranges the ends."""
    values: list[list[str]] = []
    parsed: list[Override] = OverridesParser.create().parse_overrides(words)
    for word, override in zip(words, parsed, strict=True):
        if not override.is_sweep_override():
            values.append([word])
            continue
        key = override.get_key_element()
        if override.is_interval_sweep():
            sweep = override.value()
            assert isinstance(sweep, IntervalSweep)
            values.append([f"{key}={_typed(end, sweep)}" for end in (sweep.start, sweep.end)])
        else:
            choices = [f"{key}={value}" for value in override.sweep_string_iterator()]
            values.append(choices[:: max(1, len(choices) - 1)] if override.is_range_sweep() else choices)
    first = [choices[0] for choices in values]
    others = [
        [*first[:at], other, *first[at + 1 :]] for at, choices in enumerate(values) for other in choices[1:]
    ]
    return [first, *others]


def _typed(end: float | None, sweep: IntervalSweep) -> float | int | None:
    """An end of an interval as the trials will have it."""
    return int(end) if end is not None and "int" in sweep.tags else end


def _sweep_folder(name: str, words: list[str], how: list[str]) -> Path:
    """Where a sweep is kept: by its words, but for how it is carried out."""
    given = [word.partition("=")[2] for word in how if word.startswith("hydra.sweep.dir=")]
    search = [word for word in how if word.startswith(("sweeper=", "hydra.sweeper."))]
    return Path(
        given[-1] if given else f"runs/sweeps/{name}-{digest_of(sorted([*words, *search]))}"
    ).resolve()


def _number_of_runs(words: list[str]) -> int:
    """How many combinations of values there are."""
    parsed: list[Override] = OverridesParser.create().parse_overrides(words)
    return math.prod(sum(1 for _ in each.sweep_iterator()) for each in parsed if each.is_sweep_override())


def _begin(folder: Path, name: str, words: list[str]) -> None:
    """Makes the folder of a sweep, without what an earlier attempt left of its jobs.

    A search begins anew as well: with the same seed it asks for the same trials, which answer at once as far
    as they were finished, so that it takes the course that it would have taken without the interruption.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / SWEEP_FILE).is_file():
        raise InputError(
            f"hydra.sweep.dir = {folder}: exists and is no sweep's; must be a new folder or a sweep's"
        )
    for stale in (JOBS_FOLDER, LOGS_FOLDER):
        shutil.rmtree(folder / stale, ignore_errors=True)
        (folder / stale).mkdir(parents=True)
    (folder / "study.db").unlink(missing_ok=True)
    write_text(folder / SWEEP_FILE, json.dumps({"command": name, "words": words}) + "\n")


@contextlib.contextmanager
def _watched(folder: Path, total: int | None) -> Iterator[None]:
    """A bar that counts the runs that have ended, in whatever process."""
    ended = threading.Event()

    def count() -> int:
        return sum(1 for path in (folder / JOBS_FOLDER).iterdir() if path.suffix == ".json")

    with progress("Runs", total, "runs") as advance:

        def watch() -> None:
            while not ended.wait(WATCHED_EVERY_S):
                advance.to(count())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _call_patiently(call: Callable[[], None]) -> None:
    """Once more where a launcher broke down: runs that are finished answer at once."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            if attempt == ATTEMPTS or not _is_breakdown(error):
                raise
            print(
                f"servegym: a process of the sweep died ({type(error).__name__}); going on", file=sys.stderr
            )


def _is_breakdown(error: Exception) -> bool:
    """Whether it is that a launcher lost a process, by the names that their libraries have for it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"BrokenProcessPool", "TerminatedWorkerError", "RayError", "UncompletedJobError"})


def _answer(name: str, folder: Path, searching: bool) -> dict[str, Any]:
    jobs = [json.loads(path.read_text()) for path in sorted((folder / JOBS_FOLDER).glob("*.json"))]
    answer: dict[str, Any] = {"command": name, "sweep": str(folder), "runs": jobs}
    answer |= {
        status: sum(job["status"] == status for job in jobs) for status in ("finished", "refused", "failed")
    }
    if searching:
        scored = [job for job in jobs if job.get("score") is not None]
        answer["best"] = min(scored, key=lambda job: float(job["score"])) if scored else None
    return answer


def _words_of_job() -> list[str]:
    words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)
    return [word for word in words if not word.startswith(GROUPS)]


def show(command: Command, answer: dict[str, Any]) -> None:
    """Prints a row for each run: the words in which runs differ, how it went, and what came out."""
    jobs = answer["runs"]
    common = set.intersection(*(set(job["words"]) for job in jobs)) if len(jobs) > 1 else set()
    rows = [([word for word in job["words"] if word not in common], job) for job in jobs]
    names = _shown_figures(command, jobs)
    table = Table(title=f"servegym {command.name} {' '.join(sorted(common))}".strip())
    for heading in ("run", "differs in", "went"):
        table.add_column(heading)
    for name in names:
        table.add_column(name, justify="right")
    for words, job in rows:
        figures = command.figures(job["answer"]) if job["status"] == "finished" else {}
        shown = [f"{figures[name]:,.4g}" if figures.get(name) is not None else "" for name in names]
        went = str(job.get("answer", {}).get("status", job["status"]))
        table.add_row(str(job["number"]), " ".join(words), went, *shown)
    console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for job in jobs:
        if job["status"] != "finished":
            console.print(f"Run {job['number']} {job['status']}: {job['error']}", markup=False)
    if answer.get("best"):
        best = answer["best"]
        console.print(f"Best: run {best['number']}, score {best['score']:,.6g}")
    console.print(f"Sweep: {answer['sweep']}")


def _shown_figures(command: Command, jobs: list[dict[str, Any]]) -> list[str]:
    """Of the figures that runs have, the ones that most readers look for, or else the first few."""
    known: dict[str, None] = {}
    for job in jobs:
        if job["status"] == "finished":
            known |= dict.fromkeys(command.figures(job["answer"]))
    wanted = [name for name in SHOWN if name in known]
    return wanted or list(known)[:3]
