"""`servegym load`: a scenario's test traffic against an OpenAI endpoint, whatever stands behind it."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import MISSING, DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import check_replaceable, output_folder
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.scenario.stream import EpisodeStream
from servegym.envs.workloads import Workload
from servegym.experiments.answer_folder import CONFIG_FILE, ORIGIN_FILES, write_json, write_origin
from servegym.experiments.configs import build_scenario, read_config
from servegym.experiments.emulation.worker import WorkerSettings
from servegym.experiments.emulation.workers import EmulatedWorkers, allow_many_connections
from servegym.experiments.load_generator.drive import LoadSettings, drive
from servegym.experiments.load_generator.http_client import HttpClient
from servegym.experiments.load_generator.load_results import LoadResults

REQUESTS_FILE, SUMMARY_FILE = "requests.parquet", "summary.json"
FILES = (REQUESTS_FILE, SUMMARY_FILE, CONFIG_FILE, *ORIGIN_FILES)


@dataclass
class LoadConfig:
    """Schema of `conf/load.yaml`."""

    scenario: ScenarioConfig = MISSING
    target: Any = None
    requests: int | None = None
    split: str = "test"
    seed: int = 0
    time_scale: float = 1.0
    model: str = MISSING
    api: str = "completions"
    prompts: str = "text"
    timeout_s: float = 600.0
    out: str = MISSING

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed = {self.seed}: must be at least 0")
        if self.requests is not None and self.requests < 1:
            raise InputError(f"requests = {self.requests}: must be at least 1")
        targets = self.targets
        if not all(isinstance(target, str) for target in targets) or self.target == []:
            raise InputError(f"target = {self.target}: must be an address or a list of addresses")
        for target in targets:
            HttpClient(target)

    @property
    def targets(self) -> Sequence[str]:
        """None, one or many."""
        if self.target is None:
            return ()
        return self.target if isinstance(self.target, list) else [self.target]

    @property
    def driving(self) -> LoadSettings:
        """How load is driven."""
        return LoadSettings(self.model, self.time_scale, self.api, self.prompts, self.timeout_s)


def load(config: DictConfig) -> dict[str, Any]:
    """Sends the traffic; writes what came back of every request, a summary and the configuration to `out`.

    Without a target to workers of its own, one for each replica, in turns.
    """
    settings = read_config(config, LoadConfig)
    out = Path(settings.out)
    check_replaceable(out, FILES)
    driving = settings.driving
    scenario = build_scenario(settings.scenario, None, None)
    stream = EpisodeStream(scenario, settings.split)
    stream.restart(settings.seed)
    workload = stream.next_workload().take(slice(settings.requests))
    allow_many_connections()
    results = asyncio.run(_drive(scenario, workload, settings.targets, driving))
    answer = {
        "scenario": scenario.name,
        "workload_source": scenario.traffic.source,
        "split": settings.split,
        "seed": settings.seed,
        "target": settings.target,
        "time_scale": settings.time_scale,
        "run_id": driving.run_id,
        "metrics": results.summary(),
        "finished_per_replica": results.per_replica(),
    }
    with output_folder(out, FILES) as folder:
        pq.write_table(results.table(), folder / REQUESTS_FILE)
        write_json(folder / SUMMARY_FILE, answer)
        (folder / CONFIG_FILE).write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(settings))))
        write_origin(folder, "load")
    return {**answer, "out": str(out)}


def show(answer: dict[str, Any]) -> None:
    """Prints the metrics as a table."""
    target = answer["target"] or "workers of its own"
    table = Table(title=f"load of {answer['scenario']}, seed {answer['seed']}, on {target}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in answer["metrics"].items():
        table.add_row(name, f"{value:,.0f}" if name.startswith("num_") else f"{value:,.4g}")
    console = Console()
    console.print(table)
    counts = ", ".join(f"{replica}: {count}" for replica, count in answer["finished_per_replica"].items())
    console.print(f"Finished by replica: {counts or 'none'}. Written: {answer['out']}", soft_wrap=True)


async def _drive(
    scenario: Scenario, workload: Workload, targets: Sequence[str], driving: LoadSettings
) -> LoadResults:
    if targets:
        return await drive(workload, targets, driving)
    workers = EmulatedWorkers(scenario, WorkerSettings(driving.model, driving.time_scale))
    workers.warm_up()
    try:
        await workers.start()
        return await drive(workload, workers.urls, driving)
    finally:
        workers.stop()
