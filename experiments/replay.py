"""`servegym replay`: a simulation once more, with every iteration recorded, as a page to look at."""

import math
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from omegaconf import MISSING, DictConfig
from rich.console import Console

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.simulate import OUTCOMES, Results
from servegym.envs.trace_events import trace_events, write_trace
from servegym.experiments.configs import load_config, read_config
from servegym.experiments.replay_page.episode import episode_of
from servegym.experiments.replay_page.page import write_page
from servegym.experiments.simulate import REQUESTS_FILE, SimulateConfig
from servegym.experiments.simulate import run as run_simulation
from servegym.experiments.simulate_batches import BATCHES_FILE
from servegym.experiments.simulation_output import CONFIG_FILE
from servegym.experiments.validation.simulator import relative_differences

TIMES = ("scheduled_s", "first_token_s", "finish_s", "cancelled_s")

SAME = 1e-9
"""Relative difference of times that is rounding: a recorded simulation does not skip over decodes."""


@dataclass
class ReplayConfig:
    """Schema of `conf/replay.yaml`."""

    run: str = MISSING
    page: str | None = None
    open: bool = False
    perfetto: str | None = None
    log: str | None = None


def replay(config: DictConfig) -> dict[str, Any]:
    """Repeats the simulation in folder `run` and writes what is asked for: its page, a trace, its log.

    InputError where the folder holds no simulation, or one that this version of servegym does not repeat.
    """
    settings = read_config(config, ReplayConfig)
    if settings.open and settings.page is None:
        raise InputError("open = true: needs a page, page is null")
    folder = Path(settings.run)
    simulated = _settings_of(folder)
    scenario, workload, results = run_simulation(simulated, log=True)
    difference = _difference(folder, results)
    if not difference <= SAME:
        raise InputError(
            f"run = {folder}: its times differ by up to {difference:.2g} from those simulated now: it was "
            "written by another version; run servegym simulate again"
        )
    log = results.log
    assert log is not None  # asked for
    answer: dict[str, Any] = {
        "run": str(folder),
        "scenario": scenario.name,
        "router": simulated.router,
        "requests": len(results.arrival_s),
        "iterations": len(log.iterations),
        "entries": len(log.entries),
        "preemptions": len(log.preemptions),
        "max_rel_diff": difference,
        "page": settings.page,
        "perfetto": settings.perfetto,
        "log": settings.log,
    }
    if settings.perfetto is not None:
        title = f"{simulated.router['name']} on {scenario.name}, seed {simulated.seed}"
        events = trace_events(results, log, scenario.num_replicas, title)
        answer["events"] = write_trace(Path(settings.perfetto), events)
    if settings.log is not None:
        log.save(Path(settings.log))
    if settings.page is not None:
        page = Path(settings.page)
        write_page(page, episode_of(scenario, workload, results, simulated))
        if settings.open:
            webbrowser.open(page.resolve().as_uri())
    return answer


def show(answer: dict[str, Any]) -> None:
    """Prints what was recorded and where it is."""
    console = Console(soft_wrap=True, highlight=False)
    mean_batch = answer["entries"] / max(answer["iterations"], 1)
    console.print(
        f"{answer['requests']:,} requests in {answer['iterations']:,} iterations of {mean_batch:.1f} "
        f"requests on average; {answer['preemptions']:,} preemptions"
    )
    if answer["page"] is not None:
        console.print(f"Page to open in a browser: {answer['page']}")
    if answer["perfetto"] is not None:
        console.print(f"{answer['events']:,} events for ui.perfetto.dev: {answer['perfetto']}")
    if answer["log"] is not None:
        console.print(f"Log of iterations: {answer['log']}")


def _settings_of(folder: Path) -> SimulateConfig:
    path = folder / CONFIG_FILE
    if not path.is_file() or not (folder / REQUESTS_FILE).is_file():
        raise InputError(f"run = {folder}: must be a folder that servegym simulate has written")
    if not any(line.startswith("router:") for line in path.read_text(errors="replace").splitlines()):
        kind = "batch serving" if (folder / BATCHES_FILE).is_file() else "elastic sequence parallelism"
        raise InputError(f"run = {folder}: is of {kind}; must be of LLM fleets, which have iterations")
    return load_config(path, SimulateConfig)


def _difference(folder: Path, results: Results) -> float:
    """The largest relative difference of a request's times from those in the folder; inf: another course."""
    path = folder / REQUESTS_FILE
    wanted = {*TIMES, "replica", "outcome"}
    if not wanted <= set(pq.read_schema(path).names):
        return math.inf
    table = pq.read_table(path, columns=sorted(wanted))
    courses = (("replica", results.replica), ("outcome", np.array(OUTCOMES)[results.outcome]))
    if not all(np.array_equal(table[name].to_numpy(), now) for name, now in courses):
        return math.inf
    times = ((table[name].to_numpy(), getattr(results, name)) for name in TIMES)
    return max(float(relative_differences(now, before).max(initial=0.0)) for before, now in times)
