"""Runs one workload through a fleet under one router, from the first arrival to the last token."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from servegym.costmodels.iteration import IterationCost
from servegym.costmodels.jit import jit, jit_for, kernel
from servegym.envs.sim.llm.fleet import advance, submit
from servegym.envs.sim.llm.invariants import check_replica
from servegym.envs.sim.llm.router import ChoosePointer, Router, random_state
from servegym.envs.sim.llm.state import Engine, Fleet, load_requests, new_fleet
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    REPLICA_FEATURES,
    REQUEST_FEATURES,
    write_replica_row,
    write_request_row,
)
from servegym.envs.workloads import Workload

Times = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Results:
    """What happened to each of N requests, in workload order. Times in seconds from the workload's start.

    replica: int (N,); arrival_s, scheduled_s (start of its first iteration), first_token_s, finish_s:
    float64 (N,); prompt_tokens, output_tokens: int (N,); preemptions: int (N,).
    """

    arrival_s: npt.NDArray[np.float64]
    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    replica: npt.NDArray[np.int64]
    scheduled_s: npt.NDArray[np.float64]
    first_token_s: npt.NDArray[np.float64]
    finish_s: npt.NDArray[np.float64]
    preemptions: npt.NDArray[np.int64]

    @classmethod
    def of(cls, fleet: Fleet, request_ids: slice, first_replica: int = 0) -> "Results":
        """Copies the results of some requests; replicas are numbered from `first_replica`."""
        count = request_ids.stop - request_ids.start
        times, counts = np.empty((4, count)), np.empty((4, count), np.int64)
        _read_results(fleet.requests[request_ids], first_replica, times, counts)
        return cls.of_columns(times, counts)

    @classmethod
    def of_columns(cls, times: Times, counts: Counts) -> "Results":
        """From columns as `write_result` fills them, times (4, N) and counts (4, N); shares their memory."""
        arrival_s, scheduled_s, first_token_s, finish_s = times
        prompt_tokens, output_tokens, replica, preemptions = counts
        return cls(
            arrival_s,
            prompt_tokens,
            output_tokens,
            replica,
            scheduled_s,
            first_token_s,
            finish_s,
            preemptions,
        )


@kernel
def write_result(request: np.record, row: int, first_replica: int, times: Times, counts: Counts) -> None:
    """Copies a request into row `row` of the columns times (4, N) and counts (4, N)."""
    times[0, row] = request.arrival_s
    times[1, row] = request.scheduled_s
    times[2, row] = request.first_token_s
    times[3, row] = request.finish_s
    counts[0, row] = request.prompt_tokens
    counts[1, row] = request.output_tokens
    counts[2, row] = request.replica - first_replica
    counts[3, row] = request.preemptions


@jit
def _read_results(requests: np.ndarray, first_replica: int, times: Times, counts: Counts) -> None:
    """Copies N requests into columns in one pass."""
    for i in range(requests.shape[0]):
        write_result(requests[i], i, first_replica, times, counts)


def simulate(
    workload: Workload,
    router: Router,
    *,
    num_replicas: int,
    engine: Engine,
    cost: IterationCost,
    seed: int = 0,
    debug: bool = False,
) -> Results:
    """Simulates every request of `workload` to its last token.

    A compiled router runs without the interpreter; any other callable is called at every arrival.
    `debug` checks the invariants of docs/simulator.md after every event (slow). Raises InputError where a
    request can never fit into the KV cache, and ValueError where the router picks no existing replica.
    """
    workload.check_fits(engine.num_kv_blocks, engine.block_size)
    fleet = new_fleet(num_replicas, workload.num_requests, engine, cost)
    request_ids = np.arange(workload.num_requests, dtype=np.int32)
    load_requests(
        fleet,
        request_ids,
        workload.arrival_s,
        workload.prompt_tokens,
        workload.output_tokens,
        workload.predicted_output_tokens,
    )
    route = route_function(fleet, router)
    route(
        fleet,
        request_ids,
        workload.arrival_s[0] if workload.num_requests > 0 else 0.0,
        router.choose,
        router.parameters,
        np.zeros(router.memory_size),
        random_state(np.random.SeedSequence(seed)),
        router.looks,
        debug,
    )
    run_out(fleet, debug)
    return Results.of(fleet, slice(0, workload.num_requests))


@jit
def run_out(fleet: Fleet, debug: bool) -> None:
    """Runs every replica until all its requests have finished."""
    for replica_id in range(fleet.replicas.shape[0]):
        advance(fleet, replica_id, np.inf)
        if debug:
            check_replica(fleet, replica_id)


def route_function(fleet: Fleet, router: Router) -> Callable[..., None]:
    """What sends loaded requests, one after another, to the replicas that a router chooses at their arrivals.

    Its arguments: fleet, request_ids int32 (N,), the arrival before the first of them, and choose,
    parameters, memory, random, looks of the router, debug. Compiled once for all compiled routers: the
    signature makes `choose` a pointer.
    """
    return _route_of_type(numba.typeof(fleet)) if router.is_compiled else _route


def _route(fleet, request_ids, previous_s, choose, parameters, memory, random, looks, debug):
    num_replicas = fleet.replicas.shape[0]
    rows = np.zeros((num_replicas, REPLICA_FEATURES))
    rows[:, AVAILABLE] = 1.0
    request_row = np.zeros(REQUEST_FEATURES)
    for request_id in request_ids:
        now_s = fleet.requests[request_id].arrival_s
        if looks:
            for replica_id in range(num_replicas):
                advance(fleet, replica_id, now_s)
                write_replica_row(fleet, replica_id, now_s, rows[replica_id])
        write_request_row(fleet, request_id, now_s - previous_s, request_row)
        previous_s = now_s
        replica_id = choose(rows, request_row, parameters, memory, random)
        if replica_id < 0 or replica_id >= num_replicas:
            raise ValueError("the router chose a replica that does not exist")
        if not looks:
            advance(fleet, replica_id, now_s)
        submit(fleet, replica_id, request_id)
        if debug:
            check_replica(fleet, replica_id)


@functools.cache
def _route_of_type(fleet_type: types.Type) -> Callable[..., None]:
    ids, floats, random = types.int32[::1], types.float64[::1], types.uint64[::1]
    signature = types.void(
        fleet_type, ids, types.float64, ChoosePointer, floats, floats, random, types.boolean, types.boolean
    )
    return jit_for(signature)(_route)
