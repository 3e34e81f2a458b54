"""Any fleet serves one workload under one router, from the first arrival to the last token."""

import functools
from collections.abc import Callable

import numba
import numpy as np
from numba import types

from servegym.costmodels.errors import InputError
from servegym.costmodels.jit import jit, jit_for
from servegym.envs.sim.llm.cluster.checks import check_cluster
from servegym.envs.sim.llm.cluster.looks import write_rows
from servegym.envs.sim.llm.cluster.loop import DECISION, DONE, NO_ROOM, route, run_until_decision
from servegym.envs.sim.llm.cluster.plan import FleetPlan
from servegym.envs.sim.llm.cluster.setup import new_cluster, with_more_room
from servegym.envs.sim.llm.cluster.state import FINISHED, OVER, Cluster
from servegym.envs.sim.llm.router import ChoosePointer, Router, random_state
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.sim.llm.view import AVAILABLE, REPLICA_FEATURES, REQUEST_FEATURES
from servegym.envs.workloads import Workload


def simulate_fleet(
    workload: Workload, router: Router, plan: FleetPlan, *, seed: int = 0, debug: bool = False
) -> Results:
    """Simulates a workload on any fleet until nothing can happen any more.

    A compiled router runs without the interpreter; any other callable is called at every decision. `debug`
    checks the invariants of docs/simulator.md at every decision (slow). Raises InputError where a request
    fits into no replica it could be sent to, and where the router picks a replica that is not available.
    """
    cluster = new_cluster(workload, plan)
    memory, random = np.zeros(router.memory_size), random_state(np.random.SeedSequence(seed))
    serve = _serve_of_type(numba.typeof(cluster)) if router.is_compiled else _serve
    rows = np.zeros((len(plan.replicas), REPLICA_FEATURES))
    request_row = np.zeros(REQUEST_FEATURES)
    while True:
        status = serve(
            cluster,
            router.choose,
            router.parameters,
            memory,
            random,
            router.looks,
            debug,
            rows,
            request_row,
        )
        if status == DONE:
            return _results(cluster)
        if status == NO_ROOM:
            cluster = with_more_room(cluster)
        else:
            raise InputError(
                f"router {router.name!r}: chose a replica for request {cluster.control[0].cursor} that is "
                f"not available; available are {np.flatnonzero(rows[:, AVAILABLE]).tolist()}"
            )


def _results(cluster: Cluster) -> Results:
    """Copies the results of a cluster that has served everything."""
    requests, journeys = cluster.fleet.requests, cluster.journeys
    over = journeys["place"] == OVER
    arrived = ~np.isnan(journeys["gap_s"])
    return Results(
        arrival_s=np.where(arrived, requests["arrival_s"], np.nan),
        prompt_tokens=requests["prompt_tokens"].astype(np.int64),
        output_tokens=requests["output_tokens"].astype(np.int64),
        replica=journeys["replica"].astype(np.int64),
        scheduled_s=requests["scheduled_s"].copy(),
        first_token_s=requests["first_token_s"].copy(),
        finish_s=requests["finish_s"].copy(),
        preemptions=requests["preemptions"].astype(np.int64),
        hit_tokens=requests["hit_tokens"].astype(np.int64),
        outcome=np.where(over, journeys["outcome"], FINISHED).astype(np.int64),
        cancelled_s=journeys["cancelled_s"].copy(),
        retries=journeys["retries"].astype(np.int64),
    )


def _serve(cluster, choose, parameters, memory, random, looks, debug, rows, request_row):
    """Serves until all is done or there is no room; DECISION: where the router's choice is not available."""
    while True:
        status = _run(cluster)
        if debug:
            check_cluster(cluster)
        if status != DECISION:
            return status
        _write(cluster, looks, rows, request_row)
        replica_id = choose(rows, request_row, parameters, memory, random)
        if replica_id < 0 or replica_id >= rows.shape[0] or rows[replica_id, AVAILABLE] == 0.0:
            return DECISION
        _route(cluster, replica_id)


@jit
def _run(cluster: Cluster) -> int:
    return run_until_decision(cluster)


@jit
def _write(cluster: Cluster, looks: bool, rows: np.ndarray, request_row: np.ndarray) -> None:
    write_rows(cluster, cluster.control[0].cursor, looks, rows, request_row)


@jit
def _route(cluster: Cluster, replica_id: int) -> None:
    route(cluster, replica_id)


@functools.cache
def _serve_of_type(cluster_type: types.Type) -> Callable[..., int]:
    floats, rows = types.float64[::1], types.float64[:, ::1]
    signature = types.int64(
        cluster_type,
        ChoosePointer,
        floats,
        floats,
        types.uint64[::1],
        types.boolean,
        types.boolean,
        rows,
        floats,
    )
    return jit_for(signature)(_serve)
