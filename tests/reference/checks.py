"""The invariants of docs/simulator.md, counted from scratch."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.reference.replica import Replica
from tests.reference.request import Request

BUDGETED = ("vllm_v1", "sarathi", "orca", "lightllm", "sglang", "ranked", "static", "multi_bin")


def check_replica(replica: Replica, reserved: Sequence[Any] = (), sending: Sequence[Request] = ()) -> None:
    """At any instant: queues, batch and blocks agree.

    `reserved` blocks are set aside for migrations; the requests `sending` have left, their blocks not yet.
    """
    present = replica.present()
    assert len({id(r) for r in present}) == len(present), "a request is in two places"
    seated = replica.batch if replica.engine.scheduler == "ranked" else replica.running  # others are paused
    assert len(seated) + replica.reserved_seats <= replica.engine.max_num_seqs, "max_num_seqs"
    for request in replica.waiting:
        assert request.place == "waiting" and request.replica == replica.number
        assert not request.table, "a waiting request holds blocks"
        assert request.brought or request.computed == 0, "a waiting request has computed tokens"
    for request in replica.swapped:
        assert request.place == "swapped" and not request.table, "a swapped-out request holds blocks"
    for request in replica.running:
        assert request.place == "running" and request.holder == request.replica == replica.number
        assert not request.decoding or request.computed == request.known - 1, "a token was lost"
        covered = len(request.table) * replica.engine.block_size
        assert request.computed + request.tokens_in_flight <= covered, "tokens without KV blocks"
    if replica.in_flight and replica.engine.scheduler in BUDGETED:
        assert replica.in_flight.tokens <= replica.engine.max_num_batched_tokens, "over the token budget"
    check_blocks(replica, [*(b for r in [*replica.running, *sending] for b in r.table), *reserved])


def check_blocks(replica: Replica, held: Sequence[Any]) -> None:
    """Every block is held by exactly those who say so, and free otherwise."""
    pool = replica.pool
    holders = Counter(id(block) for block in held)
    free = {id(block) for block in pool.free}
    for block in pool.blocks:
        assert block.holders == holders[id(block)], "blocks were lost or made up"
        assert (block.holders == 0) == (id(block) in free), "a block in use is free"
        assert block.content is None or block in pool.cached[block.content], "a content was lost"
    assert len(pool.free) + len(holders) == pool.num_blocks, "blocks held are not those of the pool"
    assert sum(len(same) for same in pool.cached.values()) == sum(
        block.content is not None for block in pool.blocks
    )


def check_end(requests: Sequence[Request], replicas: Sequence[Replica]) -> None:
    """After the last request: KV is empty, and every token is accounted for."""
    given: Counter[int] = Counter()
    sampled = 0
    for replica in replicas:
        assert not replica.present() and not replica.in_flight, "a replica still has work"
        assert replica.pool.used == 0, "blocks are held after the last request"
        for iteration in replica.log:
            sampled += iteration.sampled
            for entry in iteration.entries:
                given[entry.request] += entry.tokens
    for request in requests:
        assert request.place == "ended", "a request never ended"
        kept = request.computed + request.discarded_tokens - request.hit_tokens
        assert given[request.index] == kept, "a computed token was lost or made up"
        if request.outcome == "finished":
            assert request.computed == request.final_kv_tokens, "a token was lost or made up"
            times = [request.arrival_s, request.scheduled_s, request.first_token_s, request.finish_s]
            assert times == sorted(times), f"time runs backwards: {times}"
        else:
            assert math.isnan(request.finish_s), "an unfinished request has a finish time"
    if all(r.retries == 0 for r in requests) and not any(r.engine.restart_cuts_prompt for r in replicas):
        assert sampled == sum(r.generated for r in requests), "a sampled token was lost or made up"
