"""A fleet through time: replicas are advanced lazily, when somebody looks at them or sends a request."""

from servegym.costmodels.iteration import decode_iterations_within
from servegym.costmodels.jit import kernel
from servegym.envs.sim.llm.iteration import (
    complete_iteration,
    decode_horizon,
    skip_decodes,
    start_decode,
    start_iteration,
)
from servegym.envs.sim.llm.queues import append_waiting
from servegym.envs.sim.llm.state import Fleet


@kernel
def advance(fleet: Fleet, replica_id: int, now_s: float) -> None:
    """Completes the iterations that end by `now_s` and starts those that start before it."""
    replica = fleet.replicas[replica_id]
    while True:
        if replica.in_flight:
            if replica.clock_s > now_s:
                return
            complete_iteration(fleet, replica_id)
        if replica.num_unfinished == 0 or replica.clock_s >= now_s:
            return
        horizon = decode_horizon(fleet, replica_id)
        if horizon == 0:
            start_iteration(fleet, replica_id)
            continue
        decodes = replica.num_decodes
        kv_tokens = replica.context_offset + decodes * replica.iteration
        iterations, seconds, next_s = decode_iterations_within(
            fleet.cost, decodes, kv_tokens, horizon, now_s - replica.clock_s
        )
        if iterations > 0:
            skip_decodes(fleet, replica_id, iterations, seconds)
        if iterations < horizon and replica.clock_s < now_s:
            start_decode(fleet, replica_id, next_s)


@kernel
def submit(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """Sends a request to a replica that has been advanced to its arrival."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    if replica.num_unfinished == 0 and replica.clock_s < request.arrival_s:
        replica.clock_s = request.arrival_s
    append_waiting(fleet, replica_id, request_id)
    request.replica = replica_id
    replica.waiting_tokens += request.prompt_tokens
    replica.prompt_tokens += request.prompt_tokens
    replica.predicted_tokens += request.predicted_tokens
    replica.num_before_first_token += 1
    replica.num_unfinished += 1
    replica.ttft_offset_s -= request.arrival_s
    replica.latency_offset_s -= request.arrival_s
