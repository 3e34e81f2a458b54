"""Orca: iteration-level batches of decodes and whole prompts, KV reserved for the longest sequence."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.reference.replica import Replica


def schedule(replica: "Replica") -> None:
    engine = replica.engine
    for request in replica.running:
        replica.serve(request, 1)
    budget = engine.max_num_batched_tokens - len(replica.running)
    while replica.waiting and replica.num_seats > 0:
        request = replica.waiting[0]
        reserved = engine.blocks_for(engine.max_model_len)
        if request.known > budget or replica.free_blocks < reserved:
            return
        replica.admit(request)
        replica.take_blocks(request, engine.max_model_len)
        replica.serve(request, request.known)
        budget -= request.known
