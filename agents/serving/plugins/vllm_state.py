"""What vLLM's scheduler knows, in the terms of the runtime: it is read, not changed."""

from collections.abc import Mapping
from itertools import chain
from math import inf
from typing import Any, NamedTuple

import numpy as np
from vllm.v1.request import RequestStatus

from servegym.agents.serving.contracts import REQUEST_COLUMNS, EngineLimits, EngineState

PREDICTED = "predicted_output_tokens"
"""Name of a prediction in a request's `vllm_xargs` (SamplingParams.extra_args)."""

_NEW, _PREEMPTED = RequestStatus.WAITING, RequestStatus.PREEMPTED
_WAITS_FOR_GRAMMAR = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR


class Seen(NamedTuple):
    """A scheduler between two iterations: its state, and vLLM's requests behind the rows.

    blocked: of the queue, those that nobody can admit now (a grammar is compiled, output is in flight).
    ending: of those that run, those whose last token is computed: they get no more and hold their seats.
    """

    state: EngineState
    waiting: list[Any]
    running: list[Any]
    blocked: list[Any]
    ending: list[Any]


def look(scheduler: Any, limits: EngineLimits, now_s: float) -> Seen:
    """What a policy is told of `scheduler`, at `now_s` of the clock of arrivals."""
    waiting: list[Any] = []
    blocked: list[Any] = []
    running: list[Any] = []
    ending: list[Any] = []
    for request in scheduler.waiting:
        (waiting if is_admissible(request) else blocked).append(request)
    for request in scheduler.running:
        (ending if is_ending(request) else running).append(request)
    pool = KvPool(scheduler)
    seats = max(1, limits.max_num_seqs - len(ending) - seats_of_others(scheduler))
    state = EngineState(
        limits._replace(max_num_seqs=seats),
        _rows([_row(request, now_s, 0, 0) for request in waiting]),
        _rows([_row(each, now_s, each.num_computed_tokens, pool.held(each)) for each in running]),
        pool.free_blocks,
    )
    return Seen(state, waiting, running, blocked, ending)


def limits_of(scheduler: Any) -> EngineLimits:
    """What the engine was started with."""
    pool = KvPool(scheduler)
    return EngineLimits(
        token_budget=scheduler.max_num_scheduled_tokens,
        max_num_seqs=scheduler.max_num_active_reqs,
        block_size=pool.block_size,
        num_kv_blocks=pool.num_blocks,
        reserve_full_prompt=bool(scheduler.scheduler_reserve_full_isl),
    )


class KvPool:
    """The KV blocks of an engine. A request needs one for every `block_size` tokens.

    Models with several groups of layers take one for each group from the same pool; that is one block here.
    """

    def __init__(self, scheduler: Any) -> None:
        manager = scheduler.kv_cache_manager
        groups = manager.coordinator.single_type_managers
        self._num_groups, self._pool = max(1, len(groups)), manager.block_pool
        self.block_size = groups[0].block_size if groups else scheduler.block_size
        self._held: Mapping[str, list[Any]] = groups[0].req_to_blocks if groups else {}

    @property
    def num_blocks(self) -> int:
        """All but the one that vLLM sets aside."""
        return int(self._pool.num_gpu_blocks - 1) // self._num_groups

    @property
    def free_blocks(self) -> int:
        """That nobody holds, whether or not they still have cached content."""
        return int(self._pool.get_num_free_blocks()) // self._num_groups

    def held(self, request: Any) -> int:
        """Blocks of a request; those that it shares are counted for each who shares them."""
        return len(self._held.get(request.request_id, ()))


def is_admissible(request: Any) -> bool:
    """Whether vLLM would admit a waiting request if there were room."""
    status = request.status
    if status is _NEW or status is _PREEMPTED:
        return not request.num_stale_output_tokens or bool(request.drop_stale_output)
    if status is _WAITS_FOR_GRAMMAR:
        grammar = request.structured_output_request.grammar
        return grammar is not None and not isinstance(grammar, Exception)
    return False


def is_ending(request: Any) -> bool:
    """Whether the output in flight is sure to reach `max_tokens`."""
    in_flight = request.num_output_placeholders
    if not in_flight:
        return False
    sure = 1 if request.spec_token_ids else in_flight  # drafts may be rejected
    return bool(request.num_output_tokens + sure >= request.max_tokens)


def seats_of_others(scheduler: Any) -> int:
    """Seats that plans do not dispose of: of paused sessions, of those who come back with their blocks."""
    back = sum(
        request.status in (_NEW, _PREEMPTED) or request.request_id in scheduler.finished_recving_kv_req_ids
        for request in scheduler.kv_holding_waiting
    )
    return int(back + scheduler.num_waiting_for_streaming_input)


def predicted_output_tokens(request: Any) -> float:
    """What the router predicted for a request; 0 where it did not, or where that is no number."""
    parameters = request.sampling_params
    extra = None if parameters is None else parameters.extra_args
    if not extra:
        return 0.0
    try:
        predicted = float(extra.get(PREDICTED, 0.0))
    except (TypeError, ValueError):
        return 0.0
    return predicted if 0.0 <= predicted < inf else 0.0


def _row(request: Any, now_s: float, computed: int, blocks: int) -> tuple[float, ...]:
    """The REQUEST_COLUMNS. Tokens in flight count: they will be there when the planned iteration starts."""
    return (
        request.num_prompt_tokens,
        request.num_output_tokens + request.num_output_placeholders,
        computed,
        predicted_output_tokens(request),
        now_s - request.arrival_time,
        request.priority,
        blocks,
    )


def _rows(rows: list[tuple[float, ...]]) -> np.ndarray:
    columns = len(REQUEST_COLUMNS)
    numbers = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * columns)
    return numbers.reshape(len(rows), columns)
