"""T(k, ..): the time of a prefill as LoongServe's manager expects it."""

import math
from collections.abc import Sequence

from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.request import Request
from tests.reference.elastic.seconds import prefill_s


def expected_s(fleet: Fleet, instances: int, requests: Sequence[Request]) -> float:
    """T(k, S1, S2) of some requests."""
    lengths = [r.tokens for r in requests]
    return expected_sums_s(fleet, instances, sum(lengths), sum(n * n for n in lengths))


def expected_sums_s(fleet: Fleet, instances: int, sum_tokens: int, sum_squares: int) -> float:
    """As many instances as a node has stand in one; none at all would take for ever."""
    if instances == 0:
        return math.inf
    return prefill_s(fleet.cost, instances > fleet.per_node, instances, sum_tokens, sum_squares)
