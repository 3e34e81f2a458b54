"""`servegym simulate` with a scenario of elastic sequence parallelism: one system on one workload."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import MISSING, DictConfig

from servegym.agents.elastic_systems.system import ServedRequests
from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import check_replaceable, output_folder
from servegym.envs.elastic_metrics import summarise_elastic
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.elastic_scenario.config import ElasticScenarioConfig
from servegym.envs.elastic_scenario.stream import ElasticEpisodeStream
from servegym.experiments.configs import build_elastic_system, read_config
from servegym.experiments.provenance import versions
from servegym.experiments.simulation_output import ANSWER_FILES, show_metrics, write_answer

REQUESTS_FILE = "requests.parquet"
FILES = (REQUESTS_FILE, *ANSWER_FILES)


@dataclass
class SimulateElasticConfig:
    """Schema of `conf/simulate_elastic.yaml`."""

    scenario: ElasticScenarioConfig = MISSING
    policy: Any = MISSING
    split: str = "test"
    seed: int = 0
    out: str = MISSING

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed = {self.seed}: must be at least 0")


def simulate_elastic(config: DictConfig) -> dict[str, Any]:
    """Serves a workload with a system; writes requests, metrics and the configuration to `out`.

    The workload is the test workload of `seed`, or with `split=train` that seed's first training episode.
    Returns what `metrics.json` holds, and `out`.
    """
    settings = read_config(config, SimulateElasticConfig)
    out = Path(settings.out)
    check_replaceable(out, FILES)
    scenario = ElasticScenario(settings.scenario)
    system = build_elastic_system(settings.policy)
    stream = ElasticEpisodeStream(scenario, settings.split)
    stream.restart(settings.seed)
    served = system.serve(scenario, stream.next_workload())
    answer = {
        "scenario": scenario.name,
        "workload_source": scenario.traffic.source,
        "split": settings.split,
        "policy": settings.policy,
        "seed": settings.seed,
        "metrics": {
            **summarise_elastic(served, scenario),
            "scale_ups_per_10s": scale_ups_per_10s(served),
        },
        "versions": versions(),
    }
    with output_folder(out, FILES) as folder:
        pq.write_table(requests_table(served), folder / REQUESTS_FILE)
        write_answer(folder, settings, answer)
    return {**answer, "out": str(out)}


def show(answer: dict[str, Any]) -> None:
    """Prints the metrics as a table."""
    show_metrics(answer, answer["policy"]["name"])


def requests_table(served: ServedRequests) -> pa.Table:
    """A row per request; null for what never happened."""
    times = {
        name: pa.array(column, from_pandas=True)  # nan is null
        for name, column in (("first_token_s", served.first_token_s), ("finish_s", served.finish_s))
    }
    return pa.table(
        {
            "arrival_s": served.arrival_s,
            "prompt_tokens": served.prompt_tokens,
            "output_tokens": served.output_tokens,
            **times,
            "rejected": served.rejected,
        }
    )


def scale_ups_per_10s(served: ServedRequests) -> float:
    """Groups that were given more instances, in ten seconds."""
    return 10 * served.num_scale_ups / served.duration_s if served.duration_s else 0.0
