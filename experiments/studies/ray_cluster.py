"""Shards simulated by the processes of a Ray cluster, which write them where all machines see them."""

import functools
import importlib.util
import os
import pickle
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from servegym.costmodels.errors import InputError
from servegym.experiments.studies.episodes import Episodes
from servegym.experiments.studies.local import ATTEMPTS, Report, gave_up
from servegym.experiments.studies.shards import Shard, write_shard
from servegym.experiments.studies.study_config import StudyConfig

OBJECT_STORE_BYTES = 100_000_000
"""Of a cluster of our own: nothing but configurations goes through it."""


REACHED_WITHIN_S = 10.0
"""Ray itself would try for minutes to reach a cluster that is not there."""


def check_cluster(address: str | None) -> None:
    """InputError where there is no Ray, or nobody answers at an address such as 10.0.0.1:6379."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("backend = ray: needs Ray, which pip install 'servegym[ray]' brings")
    host, _, port = (address or "").rpartition("/")[2].rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), REACHED_WITHIN_S).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, error) from error


def simulate_on_ray(
    settings: StudyConfig,
    source: str,
    out: Path,
    shards: Sequence[Shard],
    workers: int | None,
    report: Report,
) -> None:
    """Writes the shards, `workers` at a time (None: one for each processor of the cluster).

    Shards whose worker or machine died are begun again by Ray. Without an address the cluster is this
    process's own, and ends with it; where the process is connected already, that cluster is used. InputError
    where the cluster cannot be reached, a shard cannot be simulated, or its worker died ATTEMPTS times.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    connected = ray.is_initialized()
    if not connected:
        _connect(ray, settings.address, workers)
    try:
        _run(ray, pickle.dumps((settings, source)), out, shards, workers, report)
    finally:
        if not connected:
            ray.shutdown()


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        ray.init(
            "local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
        return
    try:
        ray.init(address, **quiet)
    except (ConnectionError, ValueError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str | None, error: Exception) -> InputError:
    return InputError(
        f"address = {address}: cannot be reached ({' '.join(str(error).split())}); must be of a Ray cluster, "
        "auto for the one on this machine, or null to start one"
    )


def _run(
    ray: Any, study: bytes, out: Path, shards: Sequence[Shard], workers: int | None, report: Report
) -> None:
    """Keeps so many shards in flight, no more: the cluster's queue stays as short."""
    write = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_write)
    at_a_time = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = deque(shards)
    in_flight: dict[Any, Shard] = {}
    while waiting or in_flight:
        while waiting and len(in_flight) < at_a_time:
            shard = waiting.popleft()
            in_flight[write.remote(study, shard, out)] = shard
        (done, *_), _ = ray.wait(list(in_flight), num_returns=1)
        shard = in_flight.pop(done)
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise InputError(str(error.cause)) from None
            raise
        except ray.exceptions.RayError as error:
            raise gave_up(shard, type(error).__name__) from error
        report(shard, shard.num_episodes)


def _write(study: bytes, shard: Shard, out: Path) -> None:
    """What a task does."""
    write_shard(_episodes_of(study), shard, out, lambda _: None)


@functools.lru_cache(maxsize=1)
def _episodes_of(study: bytes) -> Episodes:
    """Built once by each process of the cluster."""
    settings, source = pickle.loads(study)
    episodes = Episodes(settings)
    episodes.require_source(source)
    return episodes
