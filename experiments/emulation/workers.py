"""The workers of a whole scenario, in one process and on one clock."""

import asyncio
import math
import resource

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.setup import ReplicaSpec
from servegym.experiments.emulation.clock import WallClock
from servegym.experiments.emulation.fleet import Arrival, EmulatedFleet
from servegym.experiments.emulation.live_engine import LiveEngine
from servegym.experiments.emulation.worker import Worker, WorkerSettings


def replica_specs(scenario: Scenario) -> list[ReplicaSpec]:
    """The replicas that can be emulated. InputError naming the key of what nobody would do here.

    What lies between router and replicas, `dispatch_latency_s` and `state_delay_s`, is the network's and the
    router's.
    """
    plan = scenario.plan
    for key, given in (
        ("scenario.fleet.failures", plan.failures),
        ("scenario.fleet.scaling", plan.scaling),
        ("scenario.workload.clients.image_share", scenario.config.workload.clients.image_share),
    ):
        if given:
            raise InputError(f"{key}: is not emulated, must not be given")
    specs = []
    for member in plan.replicas:
        if member.role != "mixed" or member.engine is None or member.cost is None:
            raise InputError(f"scenario.fleet: a replica has the role {member.role}, only mixed is emulated")
        specs.append(ReplicaSpec(member.engine, member.cost))
    return specs


class EmulatedWorkers:
    """A server for each replica of a scenario. Those that start are to be stopped."""

    def __init__(self, scenario: Scenario, settings: WorkerSettings) -> None:
        self._specs = replica_specs(scenario)
        self._fleet = EmulatedFleet(
            self._specs, prediction_refinement=scenario.config.workload.prediction_refinement
        )
        self._settings = settings
        self.workers: list[Worker] = []
        self.urls: list[str] = []

    def warm_up(self) -> None:
        """Loads compiled code, so that the first request does not wait for it."""
        fleet = EmulatedFleet(self._specs, max_requests=2)
        for replica_id in range(len(self._specs)):
            fleet.submit(replica_id, Arrival(32, 3, 3, block_keys=np.arange(2)), 0.0)
            fleet.advance(replica_id, 0.0, starting=True)
            fleet.withdraw(replica_id, fleet.submit(replica_id, Arrival(1, 2), 0.0), 0.0)
            fleet.row(replica_id, 0.0)
            fleet.advance(replica_id, math.inf)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Replica i listens on `port + i`; port 0: on any free ones. InputError where one cannot be had."""
        clock = WallClock(asyncio.get_running_loop(), self._settings.time_scale)
        for i in range(len(self._fleet.engines)):
            worker = Worker(self._fleet, i, LiveEngine(self._fleet, i, clock), self._settings)
            try:
                await worker.server.start(host, port + i if port else 0)
            except (OSError, OverflowError) as error:
                self.stop()
                raise InputError(
                    f"port = {port}: replica {i} cannot listen on {host}:{port + i} ({error})"
                ) from None
            self.workers.append(worker)
            shown = f"[{host}]" if ":" in host else host
            self.urls.append(f"http://{shown}:{worker.server.port}")

    def stop(self) -> None:
        """Closes all sockets and connections."""
        for worker in self.workers:
            worker.server.stop()


def allow_many_connections() -> None:
    """As many open sockets as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
