"""A closed loop: so many clients, each of which sends its next request when the one before has finished."""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.native.jit import jit
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.fleet import advance, submit
from servegym.envs.sim.llm.setup import ReplicaSpec, fleet_with
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.sim.llm.state import Fleet
from servegym.envs.workloads import Workload


def simulate_closed_loop(
    prompt_tokens: np.ndarray,
    output_tokens: np.ndarray,
    *,
    num_clients: int,
    engine: Engine,
    cost: IterationCost,
) -> Results:
    """Serves the requests (N,) in order on one replica, never more than `num_clients` at once.

    The first `num_clients` come at time 0, each of the others at the instant at which one finishes.
    Raises InputError where a request can never fit into the KV cache.
    """
    engine.refuse_agent()
    most = -(-int(np.max(prompt_tokens + output_tokens - 1)) // engine.block_size)
    if most > engine.num_kv_blocks:
        raise InputError(f"num_kv_blocks is {engine.num_kv_blocks}, must be at least {most}")
    if num_clients < 1:
        raise InputError(f"num_clients is {num_clients}, must be at least 1")
    count = len(prompt_tokens)
    fleet = fleet_with(
        Workload("closed loop", np.zeros(count), prompt_tokens, output_tokens), [ReplicaSpec(engine, cost)]
    )
    _run(fleet, num_clients)
    return Results.of(fleet, slice(0, count))


@jit
def _run(fleet: Fleet, num_clients: int) -> None:
    replica = fleet.replicas[0]
    count = fleet.requests.shape[0]
    sent = min(num_clients, count)
    for request_id in range(sent):
        submit(fleet, 0, request_id)
    while replica.num_unfinished > 0:
        before = replica.num_unfinished
        advance(fleet, 0, np.nextafter(replica.clock_s, np.inf))  # starts one iteration
        advance(fleet, 0, replica.clock_s)  # ends it
        for _ in range(before - replica.num_unfinished):
            if sent < count:
                fleet.requests[sent].arrival_s = replica.clock_s
                submit(fleet, 0, sent)
                sent += 1
