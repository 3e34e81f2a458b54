"""Any fleet serves a workload: what goes in, and what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from tests.reference.checks import check_end
from tests.reference.cost import iteration_s
from tests.reference.encoder import Encoder, encode_s
from tests.reference.fleet import Choose, Fleet
from tests.reference.log import Iteration, Preemption
from tests.reference.lookup import LookupCost
from tests.reference.ranker import Ranking, check_ranking
from tests.reference.replica import Replica
from tests.reference.request import Request, requests_of
from tests.reference.settings import FleetSettings, ReplicaSpec

REFERENCE_TOKENS = 256  # of the iteration by which replicas' speeds are compared


@dataclass
class FleetResult:
    """One entry per request in workload order, what the router saw, and a log of every replica."""

    replica: NDArray[np.int64]
    scheduled_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]
    cancelled_s: NDArray[np.float64]
    preemptions: NDArray[np.int64]
    retries: NDArray[np.int64]
    migrations: NDArray[np.int64]
    hit_tokens: NDArray[np.int64]
    outcome: list[str]  # finished, cancelled or lost
    views: list[NDArray[np.float64]]
    requests: list[NDArray[np.float64]]
    iterations: list[list[Iteration]]
    preempted: list[list[Preemption]]


def simulate_fleet(
    workload: Any,
    choose: Choose,
    *,
    replicas: Sequence[ReplicaSpec],
    ranking: Ranking | None = None,
    check: bool = True,
    **settings: Any,
) -> FleetResult:
    """Serve a workload to its end, asserting the invariants (`check`: also at every instant).

    `workload` is anything with the columns of `Workload`; `choose(replicas (R, 17), request (6,)) ->
    replica` is called whenever a request is routed; `ranking` is for all engines that need
    one; `settings` are those of `FleetSettings`. Raises `InputError` for a workload, a setting or a choice
    that the specification does not allow.
    """
    if not replicas:
        raise InputError("num_replicas: 0, at least 1 is needed")
    operation = FleetSettings(**settings)
    operation.check(replicas)
    check_ranking(ranking, replicas)
    requests = requests_of(workload)
    members = [_member(number, spec, operation, ranking) for number, spec in enumerate(replicas)]

    def make(number: int, role: str) -> Replica | Encoder:
        like = next(spec for spec in replicas if spec.role != "encode")
        return _member(number, replace(like, role=role), operation, ranking)

    fleet = Fleet(requests, members, choose, _speeds(replicas), operation, make, check)
    for request in requests:
        _check_fits(fleet, request)
    fleet.run()
    engines = [member for member in members + fleet.put_away if isinstance(member, Replica)]
    check_end(requests, engines)
    return FleetResult(
        replica=np.array([r.replica for r in requests], dtype=np.int64),
        scheduled_s=np.array([r.scheduled_s for r in requests]),
        first_token_s=np.array([r.first_token_s for r in requests]),
        finish_s=np.array([r.finish_s for r in requests]),
        cancelled_s=np.array([r.cancelled_s for r in requests]),
        preemptions=np.array([r.preemptions for r in requests], dtype=np.int64),
        retries=np.array([r.retries for r in requests], dtype=np.int64),
        migrations=np.array([r.migrations for r in requests], dtype=np.int64),
        hit_tokens=np.array([r.hit_tokens for r in requests], dtype=np.int64),
        outcome=[r.outcome for r in requests],
        views=fleet.views,
        requests=fleet.descriptions,
        iterations=[
            [i for e in engines if e.number == number for i in e.log] for number in range(len(members))
        ],
        preempted=[
            [p for e in engines if e.number == number for p in e.preemption_log]
            for number in range(len(members))
        ],
    )


def _member(
    number: int, spec: ReplicaSpec, settings: FleetSettings, ranking: Ranking | None
) -> Replica | Encoder:
    if spec.role == "encode":
        return Encoder(number, spec, settings)
    replica = Replica(number, spec, lambda request: encode_s(settings, request), ranking)
    replica.roles_change = settings.role_switch_s is not None
    return replica


def _check_fits(fleet: Fleet, request: Request) -> None:
    """There must be a replica for every stage that the request may have to go through."""
    engines = [r for r in fleet.replicas if r.role != "encode"]
    places = {
        stage: [r for r in engines if fleet.suits(request, stage, r)] for stage in ("prefill", "decode")
    }
    handed_over = any(r.role == "prefill" for r in places["prefill"]) and request.output_tokens > 1
    if fleet.settings.role_switch_s is not None and any(r.why_unfit(request) for r in engines):
        raise InputError(f"request {request.index}: it must fit everywhere where roles change")
    if not places["prefill"] or (handed_over and not places["decode"]):
        reasons = [r.why_unfit(request) for r in engines]
        raise InputError(f"request {request.index}: {next(filter(None, reasons), 'no replica decodes')}")


def _speeds(replicas: Sequence[ReplicaSpec]) -> list[float]:
    """Seconds of the reference iteration on the first replica that is no encoder, over those on each."""
    engines = [spec.engine for spec in replicas if spec.engine and spec.role != "encode"]
    tokens = min([REFERENCE_TOKENS] + [engine.max_num_batched_tokens for engine in engines])
    seconds = [
        1.0 if isinstance(spec.cost, LookupCost) else iteration_s(spec.cost, [(tokens, 0)], 0, 0, 1)
        for spec in replicas
        if spec.role != "encode"
    ]
    if not min(seconds) > 0:
        raise InputError(f"cost: an iteration of {min(seconds)} s, must be longer than 0")
    own = iter(seconds)
    return [1.0 if spec.role == "encode" else seconds[0] / next(own) for spec in replicas]
