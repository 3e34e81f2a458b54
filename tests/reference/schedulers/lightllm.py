"""LightLLM: prefill batches between runs of decodes, admitted by the peak of memory they would lead to."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.reference.replica import Replica
    from tests.reference.request import Request


def schedule(replica: "Replica") -> None:
    enough_decodes = replica.decodes_since_prefill >= replica.engine.decodes_between_prefills
    if not replica.running or enough_decodes:
        replica.decodes_since_prefill = 0
        _prefill(replica)
    if replica.batch:
        return
    for request in replica.running:
        replica.take_blocks(request, request.computed + 1)
        replica.serve(request, 1)
    if replica.running:
        replica.decodes_since_prefill += 1


def _prefill(replica: "Replica") -> None:
    engine = replica.engine
    budget = engine.max_num_batched_tokens
    while replica.waiting and replica.num_seats > 0:
        request = replica.waiting[0]
        if request.known > budget or _peak_tokens(replica, request) >= engine.lightllm_tokens:
            return
        replica.admit(request)
        replica.take_blocks(request, request.known)
        replica.serve(request, request.known)
        budget -= request.known


def _peak_tokens(replica: "Replica", candidate: "Request") -> int:
    """The most KV tokens there will ever be, if all generate up to their limits, in the worst order."""
    sizes = []
    for request in [*replica.running, candidate]:
        left = replica.output_left(request)
        if request is candidate or request in replica.batch:
            sizes.append((request.known + 1, max(0, left - 2)))
        else:
            sizes.append((request.computed + 1, max(0, left - 1)))
    sizes.sort(key=lambda size: -size[1])
    peak = used_by_all = 0
    for number, (used, left) in enumerate(sizes, start=1):
        used_by_all += used
        peak = max(peak, left * number + used_by_all)
    return peak
