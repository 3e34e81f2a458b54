"""Runs one workload through a fleet under one router, from the first arrival to the last token."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.iterations.lookup import LookupAttention
from servegym.costmodels.native.jit import jit, jit_for, kernel
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.fleet import advance, look, submit
from servegym.envs.sim.llm.identities import identities_of, write_identity
from servegym.envs.sim.llm.invariants import check_replica
from servegym.envs.sim.llm.log import IterationLog, counting_log, no_log, recording_log
from servegym.envs.sim.llm.needs import refuse_unmet_needs
from servegym.envs.sim.llm.ranking import Ranking, check_ranking
from servegym.envs.sim.llm.ranking_call import RankingCall
from servegym.envs.sim.llm.router import ChoosePointer, Router, random_state
from servegym.envs.sim.llm.setup import ReplicaSpec, fleet_with
from servegym.envs.sim.llm.state import Fleet
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    ROUTER_REPLICA_FEATURES,
    ROUTER_REQUEST_FEATURES,
    write_hits_of_arrival,
    write_load_columns,
    write_replica_row,
    write_request_row,
)
from servegym.envs.workloads import Workload

Times = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


FLEET_COLUMNS = ("parent", "cancel_after_s", "image_tokens")
"""Columns of a workload that only `simulate_fleet` knows."""

OUTCOMES = ("finished", "cancelled", "lost")
"""How a request ends, by the number in `Results.outcome`."""


@dataclass(frozen=True, eq=False)
class Results:
    """What happened to each of N requests, in workload order. Times in seconds from the workload's start.

    arrival_s (of a follow-up when it came), scheduled_s (start of its first iteration), first_token_s,
    finish_s, cancelled_s: float64 (N,), NaN for what never happened. prompt_tokens, output_tokens, replica
    (the last it was sent to, -1: none), preemptions, hit_tokens (found in the prefix cache at its
    admissions), retries (after failures), migrations: int (N,). outcome: int (N,), a position in `OUTCOMES`.
    log: every iteration, where it was recorded.
    """

    arrival_s: Times
    prompt_tokens: Counts
    output_tokens: Counts
    replica: Counts
    scheduled_s: Times
    first_token_s: Times
    finish_s: Times
    preemptions: Counts
    hit_tokens: Counts
    outcome: Counts
    cancelled_s: Times
    retries: Counts
    migrations: Counts
    log: IterationLog | None = None

    @classmethod
    def of(cls, fleet: Fleet, request_ids: slice, first_replica: int = 0) -> "Results":
        """Copies the results of some requests; replicas are numbered from `first_replica`."""
        count = request_ids.stop - request_ids.start
        times, counts = np.empty((4, count)), np.empty((5, count), np.int64)
        _read_results(fleet, request_ids.start, first_replica, times, counts)
        return cls.of_columns(times, counts)

    @classmethod
    def of_columns(cls, times: Times, counts: Counts) -> "Results":
        """From columns as `write_result` fills them, times (4, N) and counts (5, N); shares their memory."""
        arrival_s, scheduled_s, first_token_s, finish_s = times
        prompt_tokens, output_tokens, replica, preemptions, hit_tokens = counts
        return cls.all_finished(
            arrival_s=arrival_s,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            replica=replica,
            scheduled_s=scheduled_s,
            first_token_s=first_token_s,
            finish_s=finish_s,
            preemptions=preemptions,
            hit_tokens=hit_tokens,
        )

    @classmethod
    def all_finished(cls, **columns: Any) -> "Results":
        """Of requests none of which was cancelled, lost, tried again or moved; `columns` are the others."""
        never = np.broadcast_to(_ZERO, columns["arrival_s"].shape)
        no_time_s = np.broadcast_to(_NAN, columns["arrival_s"].shape)
        return cls(**columns, outcome=never, cancelled_s=no_time_s, retries=never, migrations=never)

    @property
    def finished(self) -> npt.NDArray[np.bool_]:
        """bool (N,): which requests came to their last token."""
        return self.outcome == OUTCOMES.index("finished")


_ZERO, _NAN = np.zeros((), np.int64), np.array(np.nan)  # columns of one number take no memory


@kernel
def write_result(request: np.record, row: int, first_replica: int, times: Times, counts: Counts) -> None:
    """Copies a request into row `row` of the columns times (4, N) and counts (5, N)."""
    times[0, row] = request.arrival_s
    times[1, row] = request.scheduled_s
    times[2, row] = request.first_token_s
    times[3, row] = request.finish_s
    counts[0, row] = request.prompt_tokens
    counts[1, row] = request.output_tokens
    counts[2, row] = request.replica - first_replica
    counts[3, row] = request.preemptions
    counts[4, row] = request.hit_tokens


@jit
def _read_results(fleet: Fleet, first: int, first_replica: int, times: Times, counts: Counts) -> None:
    """Copies N requests from number `first` on into columns in one pass."""
    for i in range(times.shape[1]):
        write_result(fleet.requests[first + i], i, first_replica, times, counts)


def simulate(
    workload: Workload,
    router: Router,
    *,
    num_replicas: int,
    engine: Engine,
    cost: IterationCost,
    seed: int = 0,
    lookup: LookupAttention | None = None,
    ranking: Ranking | None = None,
    log: bool = False,
    debug: bool = False,
) -> Results:
    """Simulates every request of `workload` to its last token.

    A compiled router runs without the interpreter; any other callable is called at every arrival.
    `lookup` replaces the attention of `cost`. `ranking` says who goes first on a replica, where `engine` asks
    it (`Ranking.applied_to`). `log` records every iteration (slower: none is skipped, and all is simulated
    twice; router and ranking must be functions of what they see). `debug` checks the invariants of
    docs/simulator.md after every event (slow). Raises InputError where a request can never be served or the
    router or the ranking needs what is not there, and ValueError where the router picks no existing replica.
    """
    engine.refuse_agent()
    check_ranking(engine, ranking)
    engine.check_fits(workload)
    refuse_columns(workload, FLEET_COLUMNS, "simulate")
    refuse_unmet_needs(f"router {router.name}", router.needs, workload, [engine])
    if ranking is not None:
        refuse_unmet_needs(f"scheduler {ranking.name}", ranking.needs, workload, [engine])
    replicas = [ReplicaSpec(engine, cost)] * num_replicas
    logs = [counting_log()] if log else [no_log()]
    for one in logs:
        call = RankingCall(ranking)
        state = call.new_state(num_replicas, workload)
        fleet = fleet_with(workload, replicas, lookup=lookup, log=one, ranking=state)
        try:
            _run(fleet, workload, router, seed, debug)
        except Exception:
            call.raise_error()
            raise
        if log and len(logs) == 1:
            logs.append(recording_log(one))
    results = Results.of(fleet, slice(0, workload.num_requests))
    return replace(results, log=IterationLog.of(logs[-1])) if log else results


def _run(fleet: Fleet, workload: Workload, router: Router, seed: int, debug: bool) -> None:
    route = route_function(fleet, router)
    route(
        fleet,
        np.arange(workload.num_requests, dtype=np.int32),
        identities_of(workload),
        workload.arrival_s[0] if workload.num_requests > 0 else 0.0,
        router.choose,
        router.parameters,
        router.new_memory(len(fleet.replicas)),
        random_state(np.random.SeedSequence(seed)),
        router.looks,
        debug,
    )
    run_out(fleet, debug)


def refuse_columns(workload: Workload, columns: Sequence[str], by_whom: str) -> None:
    """Raises InputError where the workload has a column that would be ignored."""
    for column in columns:
        if getattr(workload, column) is not None:
            raise InputError(
                f"workload {workload.name!r}: has {column}, which {by_whom} does not do (simulate_fleet does)"
            )


@jit
def run_out(fleet: Fleet, debug: bool) -> None:
    """Runs every replica until all its requests have finished."""
    for replica_id in range(fleet.replicas.shape[0]):
        advance(fleet, replica_id, np.inf)
        if debug:
            check_replica(fleet, replica_id)


def route_function(fleet: Fleet, router: Router) -> Callable[..., None]:
    """What sends loaded requests, one after another, to the replicas that a router chooses at their arrivals.

    Its arguments: fleet, request_ids int32 (N,), their identities float64 (N, 2), the arrival before the
    first of them, and choose, parameters, memory, random, looks of the router, debug. Compiled once for all
    compiled routers: the signature makes `choose` a pointer.
    """
    return _route_of_type(numba.typeof(fleet)) if router.is_compiled else _route


def _route(fleet, request_ids, identities, previous_s, choose, parameters, memory, random, looks, debug):
    num_replicas = fleet.replicas.shape[0]
    rows = np.zeros((num_replicas, ROUTER_REPLICA_FEATURES))
    rows[:, AVAILABLE] = 1.0
    request_row = np.zeros(ROUTER_REQUEST_FEATURES)
    for i in range(request_ids.size):
        request_id = request_ids[i]
        now_s = fleet.requests[request_id].arrival_s
        if looks:
            for replica_id in range(num_replicas):
                look(fleet, replica_id, now_s)
                write_replica_row(fleet, replica_id, now_s, rows[replica_id])
                write_load_columns(fleet, replica_id, rows[replica_id])
                write_hits_of_arrival(fleet, replica_id, request_id, rows[replica_id])
        write_request_row(fleet, request_id, now_s - previous_s, request_row)
        write_identity(identities, i, request_row)
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
        fleet_type,
        ids,
        types.float64[:, ::1],
        types.float64,
        ChoosePointer,
        floats,
        floats,
        random,
        types.boolean,
        types.boolean,
    )
    return jit_for(signature)(_route)
