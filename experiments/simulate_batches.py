"""`servegym simulate` with a scenario of batch serving: one policy on one workload, every request written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import MISSING, DictConfig

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import check_replaceable, output_folder
from servegym.envs.batch_metrics import bad_share_by_model, batch_latency_s, summarise_batches
from servegym.envs.batch_scenario import BatchScenario
from servegym.envs.batch_scenario.config import BatchScenarioConfig
from servegym.envs.batch_scenario.stream import BatchEpisodeStream
from servegym.envs.sim.batch.simulate import BatchResults
from servegym.envs.sim.batch.state import OUTCOMES
from servegym.experiments.configs import build_autoscaler, build_batch_scheduler, read_config
from servegym.experiments.provenance import versions
from servegym.experiments.simulation_output import ANSWER_FILES, show_metrics, write_answer

REQUESTS_FILE, BATCHES_FILE = "requests.parquet", "batches.parquet"
FILES = (REQUESTS_FILE, BATCHES_FILE, *ANSWER_FILES)


@dataclass
class SimulateBatchesConfig:
    """Schema of `conf/simulate_batches.yaml`."""

    scenario: BatchScenarioConfig = MISSING
    policy: Any = MISSING
    autoscaler: Any = None
    split: str = "test"
    seed: int = 0
    out: str = MISSING

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed = {self.seed}: must be at least 0")


def simulate_batches(config: DictConfig) -> dict[str, Any]:
    """Simulates a workload under a policy; writes requests, batches, metrics and the configuration to `out`.

    The workload is the test workload of `seed`, or with `split=train` that seed's first training episode.
    Returns what `metrics.json` holds, and `out`.
    """
    settings = read_config(config, SimulateBatchesConfig)
    out = Path(settings.out)
    check_replaceable(out, FILES)
    scenario = BatchScenario(settings.scenario)
    scheduler = build_batch_scheduler(settings.policy)
    autoscaler = build_autoscaler(settings.autoscaler, scenario)
    stream = BatchEpisodeStream(scenario, settings.split)
    stream.restart(settings.seed)
    results = scenario.simulate(stream.next_workload(), scheduler, autoscaler, log=True)
    answer = {
        "scenario": scenario.name,
        "workload_source": scenario.traffic.source,
        "split": settings.split,
        "policy": settings.policy,
        "autoscaler": settings.autoscaler,
        "num_gpus": scenario.cluster.num_gpus,
        "seed": settings.seed,
        "metrics": summarise_batches(results, scenario.cluster),
        "bad_share_by_model": bad_share_by_model(results, scenario.cluster),
        "versions": versions(),
    }
    with output_folder(out, FILES) as folder:
        pq.write_table(requests_table(results, scenario), folder / REQUESTS_FILE)
        pq.write_table(batches_table(results, scenario), folder / BATCHES_FILE)
        write_answer(folder, settings, answer)
    return {**answer, "out": str(out)}


def show(answer: dict[str, Any]) -> None:
    """Prints the metrics as a table."""
    show_metrics(answer, answer["policy"]["name"])


def requests_table(results: BatchResults, scenario: BatchScenario) -> pa.Table:
    """A row per request; null for what never happened: no batch, no answer."""
    served = results.batch_size > 0
    columns = {
        name: pa.array(getattr(results, name), mask=~served)
        for name in ("start_s", "end_s", "gpu", "batch_size")
    }
    latency_s = batch_latency_s(results, scenario.cluster)
    return pa.table(
        {
            "arrival_s": results.arrival_s,
            "model": _names(scenario)[results.model],
            **columns,
            "latency_s": pa.array(latency_s, mask=~served),
            "outcome": np.array(OUTCOMES)[results.outcome],
        }
    )


def batches_table(results: BatchResults, scenario: BatchScenario) -> pa.Table:
    """A row per batch in order of start."""
    batches = results.batches
    assert batches is not None  # asked for
    return pa.table(
        {
            "gpu": batches["gpu"],
            "model": _names(scenario)[batches["model"]],
            "num_requests": batches["num_requests"],
            "start_s": batches["start_s"],
            "end_s": batches["end_s"],
        }
    )


def _names(scenario: BatchScenario) -> np.ndarray:
    return np.array([model.name for model in scenario.cluster.models])
