"""Run to completion: whole prompts make a batch, which nobody joins until its last request has finished."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.reference.replica import Replica
    from tests.reference.request import Request


def schedule(replica: "Replica") -> None:
    if replica.running:
        decode(replica)
    else:
        admit(replica, replica.waiting)


def decode(replica: "Replica") -> None:
    for request in replica.running:
        replica.take_blocks(request, request.computed + 1)
        replica.serve(request, 1)


def admit(replica: "Replica", candidates: "Sequence[Request]") -> None:
    """A batch from the front of `candidates`, within seats, budget and what it may need of the cache."""
    engine = replica.engine
    budget, blocks = engine.max_num_batched_tokens, engine.num_kv_blocks
    for request in list(candidates):
        budget -= request.known
        blocks -= engine.blocks_for(request.prompt_tokens + replica.output_limit(request) - 1)
        if replica.num_seats == 0 or budget < 0 or blocks < 0:
            return
        replica.admit(request)
        replica.take_blocks(request, request.known)
        replica.serve(request, request.known)
