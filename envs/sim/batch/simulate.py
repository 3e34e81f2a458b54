"""Simulates a whole workload on a cluster."""

import math
from dataclasses import dataclass

import numpy as np

from servegym.costmodels.native.structs import fields_of
from servegym.envs.sim.batch.actions import GRACE_S
from servegym.envs.sim.batch.autoscaler import Autoscaler
from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.loop import run
from servegym.envs.sim.batch.scheduler import BatchScheduler
from servegym.envs.sim.batch.setup import Simulation
from servegym.envs.sim.batch.state import (
    DISPATCH_GPU,
    DISPATCH_SIZE,
    DROP_SIZE,
    DROPPED,
    ENERGY,
    ERROR_CODE,
    ERROR_GPU,
    ERROR_MODEL,
    ERROR_SIZE,
    GOOD,
    LATE,
    NO_ERROR,
    NOBODY,
    NOW,
    NUM_BATCHES,
    NUM_PREEMPTED,
    NUM_REQUESTS,
    PREEMPT_GPU,
    PYTHON_ERROR,
    SCALE_RANGE,
    TIMERS_STAND_STILL,
    UNSERVED,
    ClusterState,
)
from servegym.envs.workloads.batch_workload import BatchWorkload


@dataclass(frozen=True, eq=False)
class BatchResults:
    """What happened to N requests on G GPUs; times in seconds.

    start_s, end_s: of a request's batch, nan without one. gpu: -1 without. batch_size: 0 without.
    outcome: int8, GOOD, LATE, DROPPED or UNSERVED. duration_s: from 0 to the last event. gpu_busy_s: running
    batches. gpu_used_s: in use, as an autoscaler has it, else all the time. batches: where asked for, rows of
    `state.BATCH` in order of start.
    """

    arrival_s: np.ndarray
    model: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    gpu: np.ndarray
    batch_size: np.ndarray
    outcome: np.ndarray
    duration_s: float
    energy_j: float
    num_batches: int
    num_preempted: int
    gpu_busy_s: np.ndarray
    gpu_used_s: np.ndarray
    batches: np.ndarray | None = None

    @property
    def bad_share(self) -> float:
        """Of the requests, those not answered in time; 0 without requests."""
        return float((self.outcome != GOOD).mean()) if self.outcome.size else 0.0

    @property
    def good_rps(self) -> float:
        """Requests answered in time per second from the first arrival to the last; nan for fewer than two."""
        if self.outcome.size < 2:
            return math.nan
        span_s = float(self.arrival_s[-1] - self.arrival_s[0])
        return float((self.outcome == GOOD).sum()) / span_s if span_s > 0 else math.inf

    @property
    def utilisation(self) -> float:
        """Share of the GPU seconds in use in which a batch ran."""
        used_s = float(self.gpu_used_s.sum())
        return float(self.gpu_busy_s.sum()) / used_s if used_s > 0 else 0.0


def simulate_batches(
    cluster: BatchCluster,
    workload: BatchWorkload,
    scheduler: BatchScheduler,
    autoscaler: Autoscaler | None = None,
    log: bool = False,
) -> BatchResults:
    """Runs a workload to its end.

    ValueError for an action of the scheduler that is not allowed; what one in Python raises comes through.
    """
    simulation = Simulation(cluster, scheduler, max(1, len(workload.arrival_s)), autoscaler)
    simulation.begin(workload)
    run(simulation.state)
    check(simulation)
    return results_of(simulation, log)


def check(simulation: Simulation) -> None:
    """Raises what has ended a simulation before its time."""
    simulation.raise_error()
    state = simulation.state
    code = int(state.error[ERROR_CODE])
    if code == NO_ERROR:
        return
    model, gpu, size = (int(state.error[column]) for column in (ERROR_MODEL, ERROR_GPU, ERROR_SIZE))
    what = {
        DISPATCH_SIZE: f"dispatch of {size} requests of model {model}: must be at least 1, at most the "
        "queue and the model's largest batch",
        DISPATCH_GPU: f"dispatch to GPU {gpu}: must be an active GPU with fewer than two batches",
        DROP_SIZE: f"drop of {size} requests of model {model}: must be at most its queue",
        PREEMPT_GPU: f"preemption of GPU {gpu}: must have exactly one batch",
        TIMERS_STAND_STILL: f"timer {model} fires for ever at one instant",
        SCALE_RANGE: f"autoscaler asks for {size} GPUs: must be 1 to {simulation.cluster.num_gpus}",
        PYTHON_ERROR: "a function in Python failed",
    }[code]
    raise ValueError(f"scheduler {simulation.scheduler.name}, at {state.clock[NOW]:.6f} s: {what}")


def results_of(simulation: Simulation, log: bool = False) -> BatchResults:
    """What has happened so far; requests that have not ended count as unserved."""
    state = fields_of(simulation.state)
    count = int(state.counters[NUM_REQUESTS])
    arrival_s, model, batch_of = state.arrival_s[:count], state.model[:count], state.batch_of[:count]
    rows, has_batch = state.batches[np.maximum(batch_of, 0)], batch_of != NOBODY
    end_s = np.where(has_batch, rows["end_s"], math.nan)
    outcome = np.full(count, UNSERVED, np.int8)
    late = end_s > arrival_s + state.slo_s[model] - state.response_s + GRACE_S
    outcome[has_batch] = np.where(late, LATE, GOOD)[has_batch]
    outcome[~np.isnan(state.drop_s[:count])] = DROPPED
    now_s = float(state.clock[NOW])
    still_used_s = np.nan_to_num(now_s - state.used_from_s, nan=0.0)
    return BatchResults(
        arrival_s=arrival_s.copy(),
        model=model.copy(),
        start_s=np.where(has_batch, rows["start_s"], math.nan),
        end_s=end_s,
        gpu=np.where(has_batch, rows["gpu"], NOBODY),
        batch_size=np.where(has_batch, rows["num_requests"], 0),
        outcome=outcome,
        duration_s=now_s,
        energy_j=float(state.clock[ENERGY]),
        num_batches=int(state.counters[NUM_BATCHES]),
        num_preempted=int(state.counters[NUM_PREEMPTED]),
        gpu_busy_s=state.busy_s.copy(),
        gpu_used_s=state.used_s + still_used_s,
        batches=_log(state) if log else None,
    )


def _log(state: ClusterState) -> np.ndarray:
    used = np.unique(state.batch_of[state.batch_of != NOBODY])
    batches = state.batches[used]
    return batches[np.argsort(batches["start_s"], kind="stable")]
