"""`servegym simulate`: a router, and perhaps a scheduler, on one workload; every request's times written."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import MISSING, DictConfig

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import check_replaceable, output_folder
from servegym.envs.metrics import latency_s, summarise, tpot_s, ttft_s
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.scenario.stream import EpisodeStream
from servegym.envs.sim.llm.simulate import OUTCOMES, Results
from servegym.envs.workloads import Workload
from servegym.experiments.configs import build_router, build_scenario, read_config
from servegym.experiments.provenance import versions
from servegym.experiments.simulation_output import ANSWER_FILES, show_metrics, write_answer

REQUESTS_FILE = "requests.parquet"
PAGE_FILE = "replay.html"
"""What `servegym replay` adds; it is out of date with the simulation, and goes with it."""

FILES = (REQUESTS_FILE, PAGE_FILE, *ANSWER_FILES)


@dataclass
class SimulateConfig:
    """Schema of `conf/simulate.yaml`."""

    scenario: ScenarioConfig = MISSING
    router: Any = MISSING
    rebalancer: Any = None
    scheduler: Any = None
    split: str = "test"
    seed: int = 0
    out: str = MISSING

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed = {self.seed}: must be at least 0")


def simulate(config: DictConfig) -> dict[str, Any]:
    """Simulates a workload under a router; writes results, metrics and the configuration to `out`.

    The workload is the test workload of `seed`, or with `split=train` that seed's first training episode.
    Returns what `metrics.json` holds, and `out`.
    """
    settings = read_config(config, SimulateConfig)
    out = Path(settings.out)
    check_replaceable(out, FILES)
    scenario, workload, results = run(settings)
    answer = {
        "scenario": scenario.name,
        "workload_source": scenario.traffic.source,
        "split": settings.split,
        "router": settings.router,
        "rebalancer": settings.rebalancer,
        "scheduler": settings.scheduler,
        "num_replicas": scenario.num_replicas,
        "seed": settings.seed,
        "metrics": summarise(results, scenario.slo_limits(workload)),
        "versions": versions(),
    }
    _write(out, settings, results, answer)
    return {**answer, "out": str(out)}


def check(config: DictConfig) -> str:
    """The folder that a configuration writes. InputError for what cannot be built."""
    settings = read_config(config, SimulateConfig)
    build_router(settings.router, build_scenario(settings.scenario, settings.rebalancer, settings.scheduler))
    return settings.out


def run(settings: SimulateConfig, *, log: bool = False) -> tuple[Scenario, Workload, Results]:
    """Does what the settings say but writing; `log` records the iterations as well."""
    scenario = build_scenario(settings.scenario, settings.rebalancer, settings.scheduler)
    router = build_router(settings.router, scenario)
    stream = EpisodeStream(scenario, settings.split)
    stream.restart(settings.seed)
    workload = stream.next_workload()
    return scenario, workload, scenario.simulate(workload, router, seed=settings.seed, log=log)


def show(answer: dict[str, Any]) -> None:
    """Prints the metrics as a table."""
    policy = "+".join(answer[key]["name"] for key in ("router", "scheduler") if answer[key])
    show_metrics(answer, policy)


def requests_table(results: Results) -> pa.Table:
    """A row per request: the columns of `Results`, outcome by name; ttft_s, tpot_s, latency_s.

    Null for what never happened: no second token, no finish, no arrival of a follow-up.
    """
    names = [field.name for field in fields(results) if field.name not in ("log", "outcome")]
    columns = {name: getattr(results, name) for name in names}
    columns |= {"ttft_s": ttft_s(results), "tpot_s": tpot_s(results), "latency_s": latency_s(results)}
    table = {
        name: pa.array(column, mask=np.isnan(column) if column.dtype == np.float64 else None)
        for name, column in columns.items()
    }
    return pa.table(table | {"outcome": pa.array(np.array(OUTCOMES)[results.outcome])})


def _write(out: Path, settings: SimulateConfig, results: Results, answer: dict[str, Any]) -> None:
    with output_folder(out, FILES) as folder:
        pq.write_table(requests_table(results), folder / REQUESTS_FILE)
        write_answer(folder, settings, answer)
