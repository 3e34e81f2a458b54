"""Which requests are prefilled together, and on how many instances: LoongServe's dynamic programme."""

import math
from collections.abc import Sequence
from itertools import accumulate

from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.managers.times import expected_s, expected_sums_s
from tests.reference.elastic.request import Request


class Batch:
    """Requests in falling length, and the instances they are prefilled on."""

    def __init__(self, fleet: Fleet, requests: Sequence[Request], instances: Sequence[int]) -> None:
        self.requests = list(requests)
        self.instances = list(instances)
        self.seconds = expected_s(fleet, len(instances), requests)


def batching(
    fleet: Fleet, requests: Sequence[Request], instances: Sequence[int], one_batch: bool = False
) -> list[Batch]:
    """The batches, from the last to the first; with `one_batch` all requests are in one."""
    requests = sorted(requests, key=lambda r: -r.tokens)  # stable
    used = fleet.used
    instances = sorted(instances, key=lambda i: (used[i], i // fleet.per_node, i))
    lengths = [r.tokens for r in requests]
    s1 = list(accumulate(lengths, initial=0))
    s2 = list(accumulate((n * n for n in lengths), initial=0))
    gain = list(accumulate((1 / n for n in lengths), initial=0.0))
    slots = list(accumulate((fleet.capacity - used[i] for i in instances), initial=0))
    best: dict[tuple[int, int], float] = {(0, 0): 0.0}
    last: dict[tuple[int, int], tuple[int, int]] = {}  # of the best: size and instances of its last batch
    for i in range(1, len(requests) + 1):
        for j in range(1, len(instances) + 1):
            for b in [i] if one_batch else range(1, i + 1):
                for e in range(j, 0, -1):
                    if (i - b, j - e) not in best or s1[i] - s1[i - b] > slots[j] - slots[j - e]:
                        continue
                    seconds = expected_sums_s(fleet, e, s1[i] - s1[i - b], s2[i] - s2[i - b])
                    total = seconds * (gain[i] - gain[i - b]) + best[i - b, j - e]
                    if total < best.get((i, j), math.inf):
                        best[i, j] = total
                        last[i, j] = (b, e)
    n = len(requests)
    j = min((j for j in range(1, len(instances) + 1) if (n, j) in best), key=lambda j: (best[n, j], j))
    batches = []
    while n > 0:
        b, e = last[n, j]
        batches.append(Batch(fleet, requests[n - b : n], instances[j - e : j]))
        n, j = n - b, j - e
    return batches
