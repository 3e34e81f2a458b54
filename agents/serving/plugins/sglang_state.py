"""What SGLang's scheduler knows, in the terms of the runtime: it is read, not changed, and not imported."""

import math
from typing import Any, NamedTuple

import numpy as np

from servegym.agents.serving.contracts import REQUEST_COLUMNS, EngineLimits, EngineState

PREDICTED = "predicted_output_tokens"
"""Name of a prediction in a request's `custom_params`."""

BLOCK_TOKENS = 16
"""Of a KV block, where SGLang's pages are smaller: policies were trained on blocks of this size."""


class Seen(NamedTuple):
    """A scheduler between two batches: its state, and SGLang's requests behind the rows."""

    state: EngineState
    waiting: list[Any]
    running: list[Any]


def look(scheduler: Any, waiting: list[Any], running_batch: Any, now_s: float) -> Seen:
    """What a policy is told of `scheduler`, at `now_s` of the clock of its requests (time.perf_counter).

    Those who decode are in the running batch; at most one more is in the midst of its prefill.
    """
    decoding = [] if running_batch is None else [each for each in running_batch.reqs if not each.finished()]
    chunked = [] if scheduler.chunked_req is None else [scheduler.chunked_req]
    return look_at(scheduler, waiting, decoding, chunked, now_s)


def look_at(
    scheduler: Any, waiting: list[Any], decoding: list[Any], prefilling: list[Any], now_s: float
) -> Seen:
    """As `look`, of requests by what they do."""
    size = max(scheduler.page_size, BLOCK_TOKENS)
    allocator, cache = scheduler.token_to_kv_pool_allocator, scheduler.tree_cache
    budget = scheduler.chunked_prefill_size or scheduler.max_prefill_tokens
    # Without mixed batches, those who decode take nothing of the budget of prefills.
    beside = 0 if scheduler.is_mixed_chunk else len(decoding)
    limits = EngineLimits(
        token_budget=budget + beside,
        max_num_seqs=scheduler.max_running_requests,
        block_size=size,
        num_kv_blocks=allocator.size // size,
    )
    smaller_first = 1 if scheduler.schedule_low_priority_values_first else -1

    def row(request: Any, computed: int) -> tuple[float, ...]:
        return (
            len(request.origin_input_ids),
            len(request.output_ids),
            computed,
            predicted_output_tokens(request),
            now_s - request.time_stats.scheduler_recv_time,
            smaller_first * (request.priority or 0),
            math.ceil(computed / size),
        )

    rows = [row(each, len(each.origin_input_ids) + len(each.output_ids) - 1) for each in decoding]
    rows += [row(each, max(each.extend_end or 0, each.prefix_len)) for each in prefilling]
    state = EngineState(
        limits,
        _rows([row(each, 0) for each in waiting]),
        _rows(rows),
        int(allocator.available_size() + cache.evictable_size()) // size,
    )
    return Seen(state, list(waiting), decoding + prefilling)


def predicted_output_tokens(request: Any) -> float:
    """What the router predicted for a request; 0 where it did not, or where that is no number."""
    custom = request.sampling_params.custom_params
    if not isinstance(custom, dict):
        return 0.0
    try:
        predicted = float(custom.get(PREDICTED, 0.0))
    except (TypeError, ValueError):
        return 0.0
    return predicted if 0.0 <= predicted < np.inf else 0.0


def _rows(rows: list[tuple[float, ...]]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(len(rows), len(REQUEST_COLUMNS))
