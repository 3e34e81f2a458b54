"""The state of a simulated fleet: flat arrays that compiled code reads and writes in place.

A `Fleet` can hold the replicas of many episodes side by side (episode `e` owns replicas `e R .. e R + R - 1`
and a slice of the requests); nothing here knows about episodes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.iteration import IterationCost, prefill_attention_seconds
from servegym.costmodels.jit import jit

NOBODY = -1
"""Where a request id is expected and there is none."""

REPLICA = np.dtype(
    [
        ("clock_s", np.float64),  # in flight: end of that iteration; else: when the next one may start
        ("in_flight", np.int64),  # 1 while an iteration runs
        ("iteration", np.int64),  # iterations completed
        ("num_running", np.int64),  # length of the running list
        ("num_waiting", np.int64),  # length of the waiting queue
        ("num_decodes", np.int64),  # running requests whose prefill is complete
        ("context_offset", np.int64),  # sum over decodes of computed tokens minus `iteration`
        ("num_joining", np.int64),  # requests whose prefill the iteration in flight completes
        ("waiting_tokens", np.int64),  # sum of known tokens over the waiting queue
        ("partial_tokens", np.int64),  # known tokens of `partial`, 0 without one
        ("partial_computed", np.int64),  # of these computed
        ("partial_computed_next", np.int64),  # and computed after the iteration in flight
        ("prefill_blocks", np.int64),  # KV blocks of running requests that are not decoding
        ("anchor_blocks", np.int64),  # sum over decodes of `anchor` // block size, see memory.py
        ("prompt_tokens", np.int64),  # sum over requests here
        ("generated_tokens", np.int64),  # sum over requests here
        ("predicted_tokens", np.int64),  # sum of predicted output over requests here
        ("released_tokens", np.int64),  # KV tokens of finished requests
        ("num_before_first_token", np.int64),
        ("num_unfinished", np.int64),
        ("ttft_offset_s", np.float64),  # total TTFT so far is this plus num_before_first_token * now
        ("latency_offset_s", np.float64),  # total latency so far is this plus num_unfinished * now
        ("running_first", np.int32),
        ("running_last", np.int32),
        ("waiting_first", np.int32),
        ("waiting_last", np.int32),
        ("joining_first", np.int32),
        ("partial", np.int32),  # the request in the middle of its prefill, or NOBODY
    ],
    align=True,
)
"""One replica. Token and block counts are exact integers."""

REQUEST = np.dtype(
    [
        ("arrival_s", np.float64),
        ("scheduled_s", np.float64),
        ("first_token_s", np.float64),
        ("finish_s", np.float64),
        ("prompt_tokens", np.int32),
        ("output_tokens", np.int32),
        ("predicted_tokens", np.int32),  # 0 without a predictor
        ("generated", np.int32),  # tokens sampled, kept current while not decoding
        ("anchor", np.int32),  # while decoding: computed tokens minus the replica's iteration
        ("next", np.int32),  # in the waiting queue or running list
        ("previous", np.int32),  # in the running list
        ("replica", np.uint16),
        ("preemptions", np.uint16),
    ],
    align=True,
)
"""One request, 64 bytes: one cache line."""


@dataclass
class Engine:
    """The limits of a replica's engine, under vLLM's names.

    max_num_batched_tokens: token budget of one iteration.
    max_num_seqs: requests running at once; at most the token budget.
    num_kv_blocks: KV blocks of `block_size` tokens.
    """

    max_num_batched_tokens: int
    max_num_seqs: int
    num_kv_blocks: int
    block_size: int = 16

    def __post_init__(self) -> None:
        for key in ("max_num_batched_tokens", "max_num_seqs", "num_kv_blocks", "block_size"):
            if getattr(self, key) < 1:
                raise InputError(f"engine.{key} = {getattr(self, key)}: must be at least 1")
        if self.max_num_seqs > self.max_num_batched_tokens:
            raise InputError(
                f"engine.max_num_seqs = {self.max_num_seqs}: must be at most "
                f"max_num_batched_tokens = {self.max_num_batched_tokens}"
            )


_REQUEST_IDS = ("running_first", "running_last", "waiting_first", "waiting_last", "joining_first", "partial")


class Fleet(NamedTuple):
    """Everything the compiled simulator works on.

    replicas: REPLICA (S,); requests: REQUEST (N,).
    first_chunk_s: float64 (max_num_batched_tokens + 1,), prefill attention of a chunk that starts a prompt.
    due: int64 (S, max_num_seqs), a heap per replica of `iteration << 32 | request`: when decodes finish.
    block_phase: int32 (S, block_size), decodes by `anchor` modulo the block size.
    """

    replicas: np.ndarray
    requests: np.ndarray
    due: np.ndarray
    block_phase: np.ndarray
    max_num_batched_tokens: int
    max_num_seqs: int
    num_kv_blocks: int
    block_size: int
    first_chunk_s: np.ndarray
    cost: IterationCost


@jit
def _first_chunk_seconds(cost: IterationCost, max_tokens: int) -> np.ndarray:
    """Prefill attention of a chunk with nothing computed before it, by its tokens: nearly all chunks."""
    seconds = np.zeros(max_tokens + 1)
    for chunk in range(1, max_tokens + 1):
        seconds[chunk] = prefill_attention_seconds(cost, chunk, 0)
    return seconds


def new_fleet(num_replicas: int, num_requests: int, engine: Engine, cost: IterationCost) -> Fleet:
    """An idle fleet with room for `num_requests` requests (to be filled in by the caller)."""
    if not 1 <= num_replicas <= np.iinfo(np.uint16).max:
        raise InputError(f"num_replicas = {num_replicas}: must be between 1 and 65535")
    fleet = Fleet(
        replicas=np.zeros(num_replicas, REPLICA).view(np.recarray),
        requests=np.zeros(num_requests, REQUEST).view(np.recarray),
        due=np.zeros((num_replicas, engine.max_num_seqs), np.int64),
        block_phase=np.zeros((num_replicas, engine.block_size), np.int32),
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        num_kv_blocks=engine.num_kv_blocks,
        block_size=engine.block_size,
        first_chunk_s=_first_chunk_seconds(cost, engine.max_num_batched_tokens),
        cost=cost,
    )
    clear(fleet, slice(None))
    return fleet


def clear(fleet: Fleet, replica_ids: slice) -> None:
    """Makes these replicas idle and empty at time 0."""
    fleet.replicas[replica_ids] = np.zeros((), REPLICA)
    for field in _REQUEST_IDS:
        fleet.replicas[field][replica_ids] = NOBODY
    fleet.block_phase[replica_ids] = 0


def load_requests(
    fleet: Fleet,
    request_ids: np.ndarray,
    arrival_s: np.ndarray,
    prompt_tokens: np.ndarray,
    output_tokens: np.ndarray,
    predicted_output_tokens: np.ndarray | None,
) -> None:
    """Writes N requests that have not been routed yet into the slots `request_ids`, int32 (N,)."""
    predicted = _NO_PREDICTIONS if predicted_output_tokens is None else predicted_output_tokens
    _write_requests(fleet.requests, request_ids, arrival_s, prompt_tokens, output_tokens, predicted)


_NO_PREDICTIONS = np.zeros(0, np.int32)


@jit
def _write_requests(
    requests: np.ndarray,
    request_ids: np.ndarray,
    arrival_s: np.ndarray,
    prompt_tokens: np.ndarray,
    output_tokens: np.ndarray,
    predicted_output_tokens: np.ndarray,
) -> None:
    """One pass: every slot is one cache line."""
    for i in range(arrival_s.size):
        request = requests[request_ids[i]]
        request.arrival_s = arrival_s[i]
        request.scheduled_s = np.nan
        request.first_token_s = np.nan
        request.finish_s = np.nan
        request.prompt_tokens = prompt_tokens[i]
        request.output_tokens = output_tokens[i]
        request.predicted_tokens = predicted_output_tokens[i] if predicted_output_tokens.size > 0 else 0
        request.generated = 0
        request.preemptions = 0
