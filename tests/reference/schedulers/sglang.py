"""SGLang: prefill first, in chunks, admitted by an estimate of what the running ones will need."""

import math
from typing import TYPE_CHECKING

from tests.reference.engine import SGLANG_CLIP_TOKENS

if TYPE_CHECKING:
    from tests.reference.replica import Replica
    from tests.reference.request import Request

LEAST_RATIO = 0.098
LONGEST_SORTED_QUEUE = 128
STEPS_AHEAD = 20


def schedule(replica: "Replica") -> None:
    _prefill(replica)
    if not replica.batch:
        _decode(replica)


def _prefill(replica: "Replica") -> None:
    """Step 1."""
    engine = replica.engine
    budget = engine.max_num_batched_tokens
    sorts = engine.prefix_caching and engine.order == "fcfs"
    if sorts and len(replica.waiting) <= LONGEST_SORTED_QUEUE:
        replica.waiting.sort(key=lambda r: -len(replica.lookup(r)))

    ratio = max(LEAST_RATIO, replica.first_ratio - replica.decodes_since_ratio * 0.7 * 0.86 / 600)
    promised = sum(math.ceil(ratio * _future_tokens(replica, r) / engine.block_size) for r in replica.running)
    for request in [r for r in replica.running if not r.decoding]:  # one at most
        tokens = min(request.known - request.computed, budget)
        if replica.lacking(request, request.computed + tokens) > replica.free_blocks:
            return
        replica.take_blocks(request, request.computed + tokens)
        replica.serve(request, tokens)
        budget -= tokens

    while replica.waiting and replica.num_seats > 0 and budget > 0:
        request = replica.waiting[0]
        hits = replica.lookup(request)
        free_hits = sum(block.holders == 0 for block in hits)
        in_all = engine.blocks_for(request.known + _future_tokens(replica, request))
        if in_all - len(hits) + free_hits > replica.free_blocks - promised:
            return
        replica.admit(request, hits)
        tokens = min(request.known - request.computed, budget)
        replica.take_blocks(request, request.computed + tokens)
        replica.serve(request, tokens)
        promised += in_all - len(request.table)
        budget -= tokens  # nothing is left of it behind a prompt that is not complete


def _future_tokens(replica: "Replica", request: "Request") -> int:
    return min(replica.output_left(request), SGLANG_CLIP_TOKENS)


def _decode(replica: "Replica") -> None:
    """Step 2."""
    decoding = [r for r in replica.running if r.decoding]
    if replica.free_blocks < _one_step(replica, decoding):
        _retract(replica, decoding)
        decoding = [r for r in decoding if r in replica.running]
        expected = sum(r.generated for r in decoding) + STEPS_AHEAD * len(decoding)
        limits = sum(r.generated + replica.output_left(r) for r in decoding)
        replica.first_ratio = min(1.0, expected / limits)
        replica.decodes_since_ratio = 0
    elif decoding:
        replica.decodes_since_ratio += 1
    for request in decoding:
        replica.take_blocks(request, request.computed + 1)
        replica.serve(request, 1)


def _one_step(replica: "Replica", decoding: "list[Request]") -> int:
    """Blocks that one token for each of them takes."""
    return sum(replica.lacking(r, r.computed + 1) for r in decoding)


def _retract(replica: "Replica", decoding: "list[Request]") -> None:
    """Until `STEPS_AHEAD` more blocks than one step needs are free, or one request is left."""
    left = list(decoding)
    while len(left) > 1 and replica.free_blocks < _one_step(replica, left) + STEPS_AHEAD:
        place = replica.running.index
        victim = min(left, key=lambda r: (r.generated, -r.prompt_tokens, -place(r)))
        left.remove(victim)
        replica.preempt(victim, to_back=True)
    if replica.free_blocks < _one_step(replica, left):
        for request in [r for r in replica.running if not r.decoding]:
            replica.preempt(request, to_back=True)
