"""The slow executable specification of the LLM simulator, for a plain fleet: docs/simulator.md."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from tests.reference.engine import Engine
from tests.reference.fleet import Choose
from tests.reference.ranker import Ranking
from tests.reference.settings import ReplicaSpec
from tests.reference.simulate import FleetResult, simulate_fleet

__all__ = ["Engine", "simulate"]

FIRST_COLUMNS = (11, 3)  # of a replica and of a request


def simulate(
    arrival_s: Sequence[float],
    prompt_tokens: Sequence[int],
    output_tokens: Sequence[int],
    choose: Choose,
    *,
    num_replicas: int,
    engine: Engine,
    cost: Any,
    predicted_output_tokens: Sequence[float] | None = None,
    columns: str = "first",
    ranking: Ranking | None = None,
    **more_columns: Any,
) -> FleetResult:
    """Serve a workload to its end on equal replicas, asserting the invariants on the way.

    The first three arguments (and `predicted_output_tokens`, and `more_columns` under the names of
    `Workload`) hold one entry per request, by time of arrival. `choose(replicas, request) -> replica` is
    called at every arrival, with all columns of "What a router sees" or, with `columns="first"`, with the
    first 11 and 3. `cost` is any object with the fields of `IterationCost`, or a `LookupCost`. `ranking` is
    for an engine that needs one. Raises `InputError` for a workload or a choice that the specification does
    not allow.
    """
    of_replica, of_request = (None, None) if columns == "all" else FIRST_COLUMNS
    workload = SimpleNamespace(
        arrival_s=arrival_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        predicted_output_tokens=predicted_output_tokens,
        **more_columns,
    )
    result = simulate_fleet(
        workload,
        lambda replicas, request: choose(replicas[:, :of_replica], request[:of_request]),
        replicas=[ReplicaSpec(engine, cost)] * num_replicas,
        ranking=ranking,
    )
    result.views = [view[:, :of_replica] for view in result.views]
    result.requests = [about[:of_request] for about in result.requests]
    return result
