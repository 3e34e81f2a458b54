"""Whom a ranking puts first is served; others wait, are paused, preempted or swapped out."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.reference.replica import Replica
    from tests.reference.request import Request


def schedule(replica: "Replica") -> None:
    assert replica.ranker
    if not replica.present():
        return
    if replica.ranker.ranking.every_iteration or not _all_decode(replica):
        order = replica.ranker.order(replica)
        _swap_ahead(replica, order)
        _fill(replica, order)
    else:
        for request in replica.running:
            replica.take_blocks(request, request.computed + 1)
            replica.serve(request, 1)
    replica.batch.sort(key=replica.running.index)


def _all_decode(replica: "Replica") -> bool:
    """Whether a ranking's answer cannot matter."""
    if replica.waiting or replica.swapped:
        return False
    if not all(r.decoding and r in replica.last_batch for r in replica.running):
        return False
    return sum(replica.lacking(r, r.computed + 1) for r in replica.running) <= replica.free_blocks


def _swap_ahead(replica: "Replica", order: "list[Request]") -> None:
    for request in reversed(order[replica.engine.max_num_seqs :]):
        if replica.free_blocks >= replica.engine.swap_ahead_blocks:
            return
        if request in replica.running and request.decoding and replica.host_has_room(request):
            replica.swap_out(request)


def _fill(replica: "Replica", order: "list[Request]") -> None:
    engine = replica.engine
    budget = engine.max_num_batched_tokens
    preempted: list[Request] = []
    for position, request in enumerate(order):
        if len(replica.batch) == engine.max_num_seqs or budget == 0 or request in preempted:
            return
        tokens_held = request.known if request.place == "waiting" else request.computed + 1
        kept_free = engine.watermark_blocks if request.place == "waiting" else 0
        if request.place == "running" and not request.decoding:
            tokens_held = 0  # its blocks were taken at admission
        needed = replica.lacking(request, tokens_held) + kept_free

        victims = [r for r in order[position + 1 :] if r in replica.running]  # those before are in the batch
        if replica.free_blocks + sum(len(r.table) for r in victims) < needed:
            return
        while replica.free_blocks < needed:
            victim = victims.pop()
            preempted.append(victim)
            _preempt(replica, victim)

        if request.place == "waiting":
            replica.admit(request)
        elif request.place == "swapped":
            replica.swap_in(request)
        replica.take_blocks(request, tokens_held)
        tokens = min(request.known - request.computed, budget)
        replica.serve(request, tokens)
        budget -= tokens


def _preempt(replica: "Replica", victim: "Request") -> None:
    if replica.engine.preemption == "swap" and victim.decoding and replica.host_has_room(victim):
        replica.swap_out(victim)
    else:
        replica.preempt(victim)
