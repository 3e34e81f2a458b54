"""Small cases to be worked out by hand: fleets in one line, and what ran when."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servegym.costmodels.elastic.cost import ElasticCost, linear_elastic_cost
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.workloads.workload import Workload
from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.request import Request
from tests.reference.elastic.results import ElasticResults

UNIT_S = 1 / 1024
"""Times of cases are in this unit, and exact in float64."""


@dataclass(frozen=True)
class Settings:
    """The numbers of an `ElasticFleet`."""

    num_instances: int
    kv_tokens: int
    instances_per_node: int
    cost: ElasticCost


def settings(
    instances: int, capacity: int, per_node: int = 8, max_requests: int = 64, decode: float = 0
) -> Settings:
    """In units: a prefill of S1 tokens on k instances takes 4 (16 across nodes) + S1 / k.

    A decode (or `decode` where it is above 0) 2 + its largest mini-batch + 1/16 a KV token of the fullest
    member, + 1 (4) for the exchange of several; moving x tokens x / 4 (x).
    """
    iteration = linear_iteration_cost(
        max_num_batched_tokens=max_requests,
        max_num_seqs=max_requests,
        overhead_s=2 * UNIT_S,
        per_token_s=UNIT_S,
        per_kv_token_s=UNIT_S / 16,
    )
    cost = linear_elastic_cost(
        instances,
        constant_s=4 * UNIT_S,
        per_token_s=UNIT_S,
        per_token_squared_s=0.0,
        decode_s=decode * UNIT_S,
        iteration=iteration,
        exchange_s=UNIT_S,
        migrate_s_per_token=UNIT_S / 4,
    )
    return Settings(instances, capacity, per_node, cost)


def fleet_with(lengths: Sequence[tuple[int, int]], settings: Settings) -> tuple[Fleet, list[Request]]:
    """(prompt, output) tokens of requests that wait, all come at 0."""
    fleet = Fleet(settings)
    requests = [Request(index, 0.0, prompt, output) for index, (prompt, output) in enumerate(lengths)]
    for r in requests:
        fleet.arrive(r)
    return fleet, requests


def end(fleet: Fleet, number: int) -> float:
    """The iteration of a group ends; the units at which it does."""
    (group,) = [group for group in fleet.groups if group.number == number]
    assert group.end_s is not None
    fleet.now = group.end_s
    fleet.end_iteration(group)
    return fleet.now / UNIT_S


def workload(requests: Sequence[tuple[float, int, int]]) -> Workload:
    """(unit of arrival, prompt tokens, output tokens) of each."""
    arrivals, prompts, outputs = zip(*requests, strict=True)
    return Workload("hand", np.array(arrivals) * UNIT_S, np.array(prompts), np.array(outputs))


def iterations(results: ElasticResults) -> list[tuple[str, float, float, list[int], list[int]]]:
    """Kind, start and end (units), instances and requests of each, in the order in which they started."""
    return [
        (entry.kind, entry.start_s / UNIT_S, entry.end_s / UNIT_S, entry.instances, entry.requests)
        for entry in results.log
    ]
