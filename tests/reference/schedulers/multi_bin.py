"""Multi-bin batching: static batches of requests of one bin, the key of their ranking."""

from typing import TYPE_CHECKING

from tests.reference.schedulers import static

if TYPE_CHECKING:
    from tests.reference.replica import Replica
    from tests.reference.request import Request


def schedule(replica: "Replica") -> None:
    if replica.running:
        static.decode(replica)
    elif replica.waiting:
        static.admit(replica, _next_bin(replica))


def _next_bin(replica: "Replica") -> "list[Request]":
    """Of complete bins the one completed first; where there is none, that of the first request."""
    size = replica.engine.max_num_seqs
    by_arrival = sorted(replica.waiting, key=lambda r: (r.arrival_s, r.index))
    bins: dict[float, list[Request]] = {}
    for request in by_arrival:
        of_bin = bins.setdefault(request.rank_key, [])
        of_bin.append(request)
        if len(of_bin) == size:
            return of_bin
    return bins[by_arrival[0].rank_key]
