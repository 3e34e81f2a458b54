"""Any fleet serves one workload under one router, from the first arrival to the last token."""

import functools
from collections.abc import Callable
from dataclasses import replace

import numba
import numpy as np
from numba import types

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit, jit_for
from servegym.envs.sim.llm.cluster.checks import check_cluster
from servegym.envs.sim.llm.cluster.looks import write_rows
from servegym.envs.sim.llm.cluster.loop import (
    DECISION,
    DONE,
    NO_ROOM,
    REBALANCING,
    route,
    run_until_decision,
)
from servegym.envs.sim.llm.cluster.plan import FleetPlan
from servegym.envs.sim.llm.cluster.rebalancing import rebalance, write_rows_to_rebalance
from servegym.envs.sim.llm.cluster.setup import new_cluster, with_more_room
from servegym.envs.sim.llm.cluster.state import CANCELLED, FINISHED, OVER, Cluster
from servegym.envs.sim.llm.identities import identities_of, write_identity
from servegym.envs.sim.llm.log import IterationLog, counting_log, no_log, recording_log
from servegym.envs.sim.llm.needs import refuse_unmet_needs
from servegym.envs.sim.llm.ranking import Ranking, check_ranking
from servegym.envs.sim.llm.ranking_call import RankingCall
from servegym.envs.sim.llm.rebalancer import KEEP, STAY, ChooseMovesPointer
from servegym.envs.sim.llm.router import ChoosePointer, Router, random_state
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.sim.llm.view import AVAILABLE, ROUTER_REPLICA_FEATURES, ROUTER_REQUEST_FEATURES
from servegym.envs.workloads import Workload


def simulate_fleet(
    workload: Workload,
    router: Router,
    plan: FleetPlan,
    *,
    ranking: Ranking | None = None,
    seed: int = 0,
    log: bool = False,
    debug: bool = False,
) -> Results:
    """Simulates a workload on any fleet until nothing can happen any more.

    A compiled router (and rebalancer, and ranking) runs without the interpreter; any other callable is called
    at every decision. `ranking` says who goes first on each replica, whose engine must be one that asks it.
    `log` records every iteration, as in `simulate`; those that a failure cut short and image encoding are not
    among them. `debug` checks the invariants of docs/simulator.md at every decision (slow).
    Raises InputError where a request fits into no replica it could be sent to, where the router needs what is
    not there or picks a replica that is not available, and where the rebalancer names one that is none.
    """
    members = plan.replicas
    refuse_unmet_needs(
        f"router {router.name}",
        router.needs,
        workload,
        [m.engine for m in members],
        {m.role for m in members},
    )
    for member in members:
        if member.engine is not None and member.role != "encode":
            check_ranking(member.engine, ranking)
    if ranking is not None:
        engines, roles = [m.engine for m in members], {m.role for m in members}
        refuse_unmet_needs(f"scheduler {ranking.name}", ranking.needs, workload, engines, roles)
    logs = [counting_log()] if log else [no_log()]
    for one in logs:
        call = RankingCall(ranking)
        state = call.new_state(len(members), workload)
        cluster = new_cluster(workload, plan, one, state)
        try:
            cluster = _run_out(cluster, identities_of(workload), router, plan, seed, debug)
        except Exception:
            call.raise_error()
            raise
        if log and len(logs) == 1:
            logs.append(recording_log(one))
    results = results_of(cluster)
    return replace(results, log=IterationLog.of(logs[-1])) if log else results


def _run_out(
    cluster: Cluster, identities: np.ndarray, router: Router, plan: FleetPlan, seed: int, debug: bool
) -> Cluster:
    """Serves everything; the cluster that returns may be a larger one."""
    rule = plan.migration.rule if plan.migration else STAY
    seeds = np.random.SeedSequence(seed)
    memory, random = router.new_memory(len(plan.replicas)), random_state(seeds)
    rule_memory, rule_random = np.zeros(rule.memory_size), random_state(seeds.spawn(1)[0])
    moves = np.zeros((len(plan.replicas), 2), np.int64)
    orders = np.zeros(len(plan.replicas), np.int64)
    compiled = router.is_compiled and rule.is_compiled
    serve = _serve_of_type(numba.typeof(cluster)) if compiled else _serve
    rows = np.zeros((len(plan.replicas), ROUTER_REPLICA_FEATURES))
    request_row = np.zeros(ROUTER_REQUEST_FEATURES)
    while True:
        status = serve(
            cluster,
            identities,
            router.choose,
            router.parameters,
            memory,
            random,
            router.looks,
            rule.choose,
            rule.parameters,
            rule_memory,
            rule_random,
            moves,
            orders,
            debug,
            rows,
            request_row,
        )
        if status == DONE:
            return cluster
        if status == NO_ROOM:
            cluster = with_more_room(cluster)
        elif status == REBALANCING:
            raise rule.refusal(moves, int(cluster.control[0].num_moves), orders)
        else:
            raise InputError(
                f"router {router.name!r}: chose a replica for request {cluster.control[0].cursor} that is "
                f"not available; available are {np.flatnonzero(rows[:, AVAILABLE]).tolist()}"
            )


def results_of(cluster: Cluster) -> Results:
    """Copies what has happened so far to the requests of a cluster."""
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
        cancelled_s=np.where(journeys["outcome"] == CANCELLED, journeys["over_s"], np.nan),
        retries=journeys["retries"].astype(np.int64),
        migrations=journeys["migrations"].astype(np.int64),
    )


def _serve(
    cluster,
    identities,
    choose,
    parameters,
    memory,
    random,
    looks,
    choose_moves,
    rule_parameters,
    rule_memory,
    rule_random,
    moves,
    orders,
    debug,
    rows,
    request_row,
):
    """Serves until all is done or there is no room.

    DECISION, REBALANCING: the choice of the router or of the rebalancer is not possible.
    """
    while True:
        status = _run(cluster)
        if debug:
            check_cluster(cluster)
        if status == REBALANCING:
            _write_to_rebalance(cluster, rows)
            orders[:] = KEEP
            count = choose_moves(rows, rule_parameters, rule_memory, rule_random, moves, orders)
            if not _rebalance(cluster, moves, count, orders):
                return REBALANCING
            continue
        if status != DECISION:
            return status
        _write(cluster, identities, looks, rows, request_row)
        replica_id = choose(rows, request_row, parameters, memory, random)
        if replica_id < 0 or replica_id >= rows.shape[0] or rows[replica_id, AVAILABLE] == 0.0:
            return DECISION
        _route(cluster, replica_id)


@jit
def _run(cluster: Cluster) -> int:
    return run_until_decision(cluster)


@jit
def _write(
    cluster: Cluster, identities: np.ndarray, looks: bool, rows: np.ndarray, request_row: np.ndarray
) -> None:
    request_id = cluster.control[0].cursor
    write_rows(cluster, request_id, looks, rows, request_row)
    write_identity(identities, request_id, request_row)


@jit
def _route(cluster: Cluster, replica_id: int) -> None:
    route(cluster, replica_id)


@jit
def _write_to_rebalance(cluster: Cluster, rows: np.ndarray) -> None:
    write_rows_to_rebalance(cluster, rows)


@jit
def _rebalance(cluster: Cluster, moves: np.ndarray, count: int, orders: np.ndarray) -> bool:
    return rebalance(cluster, moves, count, orders)


@functools.cache
def _serve_of_type(cluster_type: types.Type) -> Callable[..., int]:
    floats, rows, random = types.float64[::1], types.float64[:, ::1], types.uint64[::1]
    signature = types.int64(
        cluster_type,
        rows,
        ChoosePointer,
        floats,
        floats,
        random,
        types.boolean,
        ChooseMovesPointer,
        floats,
        floats,
        random,
        types.int64[:, ::1],
        types.int64[::1],
        types.boolean,
        rows,
        floats,
    )
    return jit_for(signature)(_serve)
