"""`servegym study`: very many episodes, sharded over processes or a Ray cluster, streamed to Parquet."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from servegym.costmodels.output_file import write_text
from servegym.costmodels.progress import progress
from servegym.experiments.configs import read_config
from servegym.experiments.json_answer import plain
from servegym.experiments.provenance import versions
from servegym.experiments.studies.episodes import Episodes
from servegym.experiments.studies.local import simulate_locally
from servegym.experiments.studies.ray_cluster import check_cluster, simulate_on_ray
from servegym.experiments.studies.shards import Shard, is_complete, shards_of
from servegym.experiments.studies.study_config import StudyConfig
from servegym.experiments.studies.study_folder import (
    EPISODES_FILE,
    LATENCIES_FILE,
    METRICS_FILE,
    check_folder,
    study_folder,
)
from servegym.experiments.studies.study_summary import CONFIDENCE, join_episodes, join_latencies, summary

__all__ = ["StudyConfig", "check", "show", "study"]


def study(config: DictConfig) -> dict[str, Any]:
    """Simulates what is missing of the study in `out`, then says what came out of all of it.

    Returns what `metrics.json` holds, and `out` and how many shards were simulated now. InputError where the
    folder holds another study, naming the keys that differ.
    """
    episodes, out = _checked(config)
    settings = episodes.settings
    command = "servegym study " + " ".join(map(shlex.quote, HydraConfig.get().overrides.task))
    with study_folder(out, settings, episodes.source, command.strip()):
        shards = shards_of(settings)
        missing = [shard for shard in shards if not is_complete(shard, out, settings.keep)]
        _simulate(settings, episodes.source, out, missing)
        join_episodes(shards, out, out / EPISODES_FILE)
        join_latencies(shards, out, out / LATENCIES_FILE)
        answer = {
            "scenario": episodes.scenario.name,
            "workload_source": episodes.source,
            "split": settings.split,
            "router": settings.router,
            "rebalancer": settings.rebalancer,
            "scheduler": settings.scheduler,
            "num_replicas": episodes.scenario.num_replicas,
            "seed": settings.seed,
            "episodes": settings.episodes,
            "episode_requests": settings.episode_requests,
            **summary(out / EPISODES_FILE, out / LATENCIES_FILE),
            "versions": versions(),
        }
        write_text(out / METRICS_FILE, json.dumps(plain(answer), indent=2) + "\n")
    return {**answer, "shards": len(shards), "shards_simulated": len(missing), "out": settings.out}


def check(config: DictConfig) -> str:
    """The folder that a study would write. InputError as `study`, with nothing done."""
    return _checked(config)[0].settings.out


def show(answer: dict[str, Any]) -> None:
    """Prints percentiles over all requests, and the means over episodes with their intervals."""
    policy = "+".join(answer[key]["name"] for key in ("router", "scheduler") if answer[key])
    latencies = Table(
        title=f"{policy} on {answer['scenario']}, {answer['counts']['num_requests']:,} requests in "
        f"{answer['episodes']:,} episodes"
    )
    percentiles = [key for key in next(iter(answer["latencies"].values())) if key != "num_values"]
    latencies.add_column("of all requests")
    for key in percentiles:
        latencies.add_column(key, justify="right")
    for name, values in answer["latencies"].items():
        latencies.add_row(name, *(f"{values[key]:,.4g}" for key in percentiles))
    means = Table()
    means.add_column("of an episode")
    means.add_column("mean", justify="right")
    means.add_column(f"{CONFIDENCE:.0%} interval", justify="right")
    for name, mean in answer["metrics"].items():
        low, high = answer["intervals"][name]
        means.add_row(name, f"{mean:,.4g}", f"{low:,.4g} to {high:,.4g}")
    console = Console()
    console.print(latencies, means)
    done = f"{answer['shards_simulated']} of {answer['shards']} shards simulated now"
    console.print(f"Requests: {answer['workload_source']}. Written: {answer['out']} ({done})", soft_wrap=True)


def _checked(config: DictConfig) -> tuple[Episodes, Path]:
    """What simulates the episodes, and the folder, absolute: other processes may be elsewhere."""
    settings = read_config(config, StudyConfig)
    episodes = Episodes(settings)
    out = Path(settings.out).resolve()
    check_folder(out, settings, episodes.source)
    if settings.backend == "ray":
        check_cluster(settings.address)
    return episodes, out


def _simulate(settings: StudyConfig, source: str, out: Path, missing: Sequence[Shard]) -> None:
    """Writes the missing shards where the settings say, with a bar of requests."""
    if not missing:
        return
    total = settings.episodes * settings.episode_requests
    before = total - sum(shard.num_episodes for shard in missing) * settings.episode_requests
    done = dict.fromkeys(missing, 0)
    with progress("Simulating", total, "requests", start=before) as advance:

        def report(shard: Shard, num_episodes: int) -> None:
            advance((num_episodes - done[shard]) * settings.episode_requests)
            done[shard] = num_episodes

        if settings.backend == "ray":
            simulate_on_ray(settings, source, out, missing, settings.workers, report)
        else:
            workers = settings.workers or os.cpu_count() or 1
            simulate_locally(settings, source, out, missing, workers, report)
