"""`servegym emulate`: OpenAI-compatible workers that take their time from a scenario's cost model."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, DictConfig

from servegym.costmodels.errors import InputError
from servegym.envs.scenario.config import ScenarioConfig
from servegym.experiments.configs import build_scenario, read_config
from servegym.experiments.emulation.worker import WorkerSettings
from servegym.experiments.emulation.workers import EmulatedWorkers, allow_many_connections


@dataclass
class EmulateConfig:
    """Schema of `conf/emulate.yaml`."""

    scenario: ScenarioConfig = MISSING
    host: str = "127.0.0.1"
    port: int = 0
    time_scale: float = 1.0
    stream_interval: int = 1
    hold_head: bool = False
    admin: bool = False
    for_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"port = {self.port}: must be from 0 to 65535")
        if not 0 < self.time_scale < float("inf"):
            raise InputError(f"time_scale = {self.time_scale}: must be positive and finite")
        if self.stream_interval < 1:
            raise InputError(f"stream_interval = {self.stream_interval}: must be at least 1")
        if self.for_s is not None and not self.for_s > 0:
            raise InputError(f"for_s = {self.for_s}: must be above 0")


def emulate(config: DictConfig) -> Iterator[dict[str, Any]]:
    """Starts the workers, answers where they are, and goes on until stopped (SIGTERM, SIGINT, `for_s`)."""
    settings = read_config(config, EmulateConfig)
    scenario = build_scenario(settings.scenario, None, None)
    workers = EmulatedWorkers(
        scenario,
        WorkerSettings(
            model=settings.scenario.fleet.model,
            time_scale=settings.time_scale,
            stream_interval=settings.stream_interval,
            hold_head=settings.hold_head,
            admin=settings.admin,
        ),
    )
    workers.warm_up()
    allow_many_connections()
    with asyncio.Runner() as runner:
        try:
            runner.run(workers.start(settings.host, settings.port))
            yield {
                "scenario": scenario.name,
                "model": settings.scenario.fleet.model,
                "num_replicas": scenario.num_replicas,
                "time_scale": settings.time_scale,
                "urls": workers.urls,
            }
            runner.run(_until_stopped(settings.for_s))
        finally:
            workers.stop()


def check(config: DictConfig) -> str:
    """InputError: it does not end, so it is no part of a sweep."""
    raise InputError("emulate: serves until it is stopped; leave out -m")


def show(answer: dict[str, Any]) -> None:
    """Prints where the workers are."""
    print(f"{answer['num_replicas']} workers of {answer['scenario']}, time_scale {answer['time_scale']:g}:")
    for url in answer["urls"]:
        print(f"  {url}")
    print("Stop with Ctrl-C.")
    sys.stdout.flush()


async def _until_stopped(for_s: float | None) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        await asyncio.wait_for(stopped.wait(), for_s)
    except TimeoutError:
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
