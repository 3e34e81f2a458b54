"""A trace in laps: played from its beginning again whenever it ends, for more requests than it has."""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.workload import Workload


def in_laps(part: Workload, num_requests: int, keep: float, rng: np.random.Generator) -> Workload:
    """`num_requests` requests of a part of a trace, which begins anywhere and is played round and round.

    Each request is kept with probability `keep`, drawn anew in every lap. From the last request of a lap to
    the first of the next it is as long as between requests on average. Times are the trace's, not from 0.
    InputError where all requests come at once, and where they say what they have in common with others: the
    same sessions and prompts would come back with every lap.
    """
    for column in ("parent", "session_id", "prefix_ids"):
        if getattr(part, column) is not None:
            raise InputError(
                f"{part.source or f'workload {part.name!r}'}: has {column}, must have none to be played in "
                "laps, in which the same would come back"
            )
    if part.duration_s == 0:
        raise InputError(
            f"{part.source or f'workload {part.name!r}'}: its {part.num_requests} requests come at once, "
            "must take some time to be played in laps"
        )
    lap_s = part.duration_s + 1 / part.rate_rps
    start = rng.integers(part.num_requests)
    positions = start - 1 + np.cumsum(rng.geometric(keep, num_requests))  # as with a coin for each
    lap, indices = np.divmod(positions, part.num_requests)
    return part.replay(indices, part.arrival_s[indices] + lap * lap_s)
