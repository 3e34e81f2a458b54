"""A fleet through time: replicas are advanced lazily, when somebody looks at them or sends a request."""

import math
from typing import Any

import numba
from numba.core import types

from servegym.costmodels.iterations.decode_spans import decode_iterations_within
from servegym.costmodels.native.calls import address_of, call_at
from servegym.costmodels.native.jit import kernel, routine
from servegym.costmodels.native.structs import fields_of, knowing, struct
from servegym.envs.sim.llm import schedulers
from servegym.envs.sim.llm.asking import note_gone, write_key
from servegym.envs.sim.llm.batch import begin_batch, count_out, evict, is_urgent, known_tokens, leave_running
from servegym.envs.sim.llm.engine import (
    AGENT,
    FCFS,
    LIGHTLLM,
    MULTI_BIN,
    RANKED,
    STATIC,
    VLLM_V1,
)
from servegym.envs.sim.llm.iteration import (
    complete_iteration,
    decode_seconds,
    skip_decodes,
    start_batch,
    start_decode,
    step_decodes,
)
from servegym.envs.sim.llm.queues import append_waiting, insert_in_order, remove_waiting
from servegym.envs.sim.llm.ranking_state import RANKS_QUEUE, no_ranking
from servegym.envs.sim.llm.schedulers import agent, multi_bin, ranked, static, vllm_v1
from servegym.envs.sim.llm.state import DECODING, PAUSED, PREFILLING, SWAPPED, WAITING, Fleet
from servegym.envs.sim.llm.swapping import leave_swapped


@kernel
def advance(fleet: Fleet, replica_id: int, now_s: float) -> None:
    """Completes the iterations that end by `now_s` and starts those that start before it.

    Stops where the scheduler has nothing to start: an agent's replica stands still while a decision is due.
    """
    replica = fleet.replicas[replica_id]
    if replica.in_flight:
        due = replica.clock_s <= now_s
    else:
        due = replica.num_unfinished > 0 and replica.clock_s < now_s
    if due:  # the call is not cheap
        call_at(fleet.advance, (fleet, replica_id, now_s))


@kernel
def look(fleet: Fleet, replica_id: int, now_s: float) -> None:
    """`advance` for those who look often, at replicas that only `submit` and `advance` change.

    Between two looks a replica completes few iterations, most of which only decode.
    """
    step_decodes(fleet, replica_id, now_s)
    advance(fleet, replica_id, now_s)


PLAIN: dict[str, Any] = {
    "scheduler": VLLM_V1,
    "order": FCFS,
    "block_size": 16,
    "prefix_caching": 0,
    "long_prefill_token_threshold": 0,
    "reserve_full_prompt": 1,
    "watermark_blocks": 0,
    "reserved_output_share": 0.0,
    "swap_ahead_blocks": 0,
    "counts_energy": 0,
    "reserved_blocks": 0,
}
"""vLLM's defaults. A fleet of equal replicas with these has faster code of its own."""


def with_advance(fields: Fleet) -> Fleet:
    """A fleet that can be advanced; which schedulers are compiled for it depends on its engines."""
    used = {engine.scheduler for engine in fields.engines}
    function = _advance_mixed if used & {RANKED, STATIC, MULTI_BIN} else _advance_any
    if len(used) == 1:
        function = _ADVANCE_ONLY.get(min(used), function)
    fleet_type = type_of(fields)
    if fields.ranking.ranks == RANKS_QUEUE:
        key = address_of(write_key, fleet_type, types.int64, types.int64, types.float64)
        fields = fields._replace(ranking=struct(fields_of(fields.ranking)._replace(write_key=key)))
    if len(fields.engines) == 1 and fields.engines[0]._replace(**PLAIN) == fields.engines[0]:
        fleet_type = knowing(fleet_type, "engines", **PLAIN)
    return struct(fields._replace(advance=address_of(function, fleet_type, types.int64, types.float64)))


def type_of(fields: Fleet) -> Any:
    """Numba's type of a fleet, of which the addresses need not be known yet."""
    return numba.typeof(struct(fields._replace(advance=0, ranking=struct(no_ranking()))))


@routine
def _advance_vllm_v1(fleet: Fleet, replica_id: int, now_s: float) -> None:
    _advance(fleet, replica_id, now_s, vllm_v1.start, vllm_v1.horizon)


@routine
def _advance_agent(fleet: Fleet, replica_id: int, now_s: float) -> None:
    _advance(fleet, replica_id, now_s, agent.start, agent.horizon)


@routine
def _advance_ranked(fleet: Fleet, replica_id: int, now_s: float) -> None:
    _advance(fleet, replica_id, now_s, ranked.start, ranked.horizon)


@routine
def _advance_static(fleet: Fleet, replica_id: int, now_s: float) -> None:
    _advance(fleet, replica_id, now_s, static.start, static.horizon)


@routine
def _advance_multi_bin(fleet: Fleet, replica_id: int, now_s: float) -> None:
    _advance(fleet, replica_id, now_s, multi_bin.start, multi_bin.horizon)


@routine
def _advance_any(fleet: Fleet, replica_id: int, now_s: float) -> None:
    _advance(fleet, replica_id, now_s, schedulers.start, schedulers.horizon)


@routine
def _advance_mixed(fleet: Fleet, replica_id: int, now_s: float) -> None:
    _advance(fleet, replica_id, now_s, schedulers.start_of_any, schedulers.horizon_of_any)


_ADVANCE_ONLY = {
    VLLM_V1: _advance_vllm_v1,
    AGENT: _advance_agent,
    RANKED: _advance_ranked,
    STATIC: _advance_static,
    MULTI_BIN: _advance_multi_bin,
}
"""Where all replicas have this scheduler."""


@kernel
def _advance(fleet, replica_id, now_s, start, horizon):
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    is_ranked = engine.scheduler == RANKED
    steps = not (engine.counts_energy or engine.prefix_caching or engine.scheduler == LIGHTLLM or is_ranked)
    replica.decodes_left = 0
    skips = fleet.lookup.decode_s.size == 0 and not fleet.log.enabled
    while True:
        if replica.in_flight:
            if replica.clock_s > now_s:
                return
            complete_iteration(fleet, replica_id)
        if replica.num_unfinished == 0 or replica.clock_s >= now_s:
            return
        limit = horizon(fleet, replica_id) if skips else 0
        if limit == 0:
            start_s = replica.clock_s
            begin_batch(fleet, replica_id)
            start(fleet, replica_id)
            if not start_batch(fleet, replica_id):
                if fleet.engines[replica.group].scheduler != AGENT:
                    replica.clock_s = math.inf  # it is tried again when something happens to the replica
                return
            if is_ranked:
                replica.last_iteration_s = replica.clock_s - start_s
            continue
        decodes = replica.num_decodes
        kv_tokens = replica.context_offset + decodes * replica.iteration
        iterations, seconds, next_s, segment, left = decode_iterations_within(
            fleet.decode_lines[replica.group], decodes, kv_tokens, limit, now_s - replica.clock_s
        )
        if iterations > 0:
            if is_ranked:
                last_kv_tokens = kv_tokens + (iterations - 1) * decodes
                replica.last_iteration_s = decode_seconds(fleet, replica_id, decodes, last_kv_tokens)
            skip_decodes(fleet, replica_id, iterations, seconds)
        if iterations < limit and replica.clock_s < now_s:
            start_decode(fleet, replica_id, next_s)
            if is_ranked:
                replica.last_iteration_s = next_s
            if steps:
                replica.decode_segment = segment
                replica.decodes_left = left


@kernel
def submit(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Sends a request to a replica that has been advanced to its arrival."""
    submit_at(fleet, replica_id, request_id, fleet.requests[request_id].arrival_s)


@kernel
def submit_at(fleet: Fleet, replica_id: int, request_id: int, now_s: float) -> None:
    """A request reaches, at `now_s`, a replica that has been advanced to then."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    if not replica.in_flight and replica.clock_s < request.arrival_s:
        replica.clock_s = request.arrival_s
    if fleet.engines[replica.group].order == FCFS:
        append_waiting(fleet, replica_id, request_id)
    else:
        insert_in_order(fleet, replica_id, request_id, now_s)
    request.replica = replica_id
    replica.waiting_tokens += request.prompt_tokens
    replica.prompt_tokens += request.prompt_tokens
    replica.predicted_tokens += request.predicted_tokens
    replica.num_before_first_token += 1
    replica.num_unfinished += 1
    replica.num_urgent += is_urgent(fleet, request_id)
    replica.decodes_left = 0
    replica.ttft_offset_s -= request.arrival_s
    replica.latency_offset_s -= request.arrival_s


@routine
def withdraw(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Takes a request that has not ended away from a replica; where it runs, between two iterations."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    computed, was_served = 0, request.state == DECODING
    if request.state == PREFILLING or request.state == DECODING or request.state == PAUSED:
        if fleet.engines[replica.group].prefix_caching:
            evict(fleet, replica_id, 0)
        computed = leave_running(fleet, replica_id, request_id)
    elif request.state == SWAPPED:
        computed = request.computed
        leave_swapped(fleet, replica_id, request_id)
    else:
        remove_waiting(fleet, replica_id, request_id)
        if request.state == WAITING:
            replica.waiting_tokens -= known_tokens(fleet, request_id)
    if fleet.engines[replica.group].scheduler == RANKED:
        note_gone(fleet, replica_id, request_id, computed, was_served)
    count_out(fleet, replica_id, request_id)
