"""The energy of replicas whose engine counts it: docs/simulator.md, "Energy".

A replica adds up what its iterations took beyond idle power, each when it starts; idle power it draws always.
"""

from servegym.costmodels.iterations.cost import decode_seconds
from servegym.costmodels.iterations.power import joules_above_idle
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.state import Fleet


@routine
def count_batch_energy(fleet: Fleet, replica_id: int, seconds: float, tokens: int, kv_tokens: int) -> None:
    """Of an iteration of `tokens` tokens that starts now; its decodes read and write `kv_tokens`."""
    replica = fleet.replicas[replica_id]
    request_id = replica.prefilling_first
    for _ in range(replica.num_prefilling):
        request = fleet.requests[request_id]
        if request.chunk > 0:
            kv_tokens += request.computed + request.chunk
        request_id = request.next_prefilling
    replica.active_j += joules_above_idle(fleet.power[replica.group], seconds, tokens, kv_tokens)


@routine
def count_decode_energy(fleet: Fleet, replica_id: int, iterations: int) -> None:
    """Of so many iterations from now on in which the same requests decode and nothing else runs."""
    replica = fleet.replicas[replica_id]
    decodes = replica.num_decodes
    kv_tokens = replica.context_offset + decodes * replica.iteration
    for _ in range(iterations):
        seconds = decode_seconds(fleet.cost[replica.group], decodes, kv_tokens)
        kv_tokens += decodes
        replica.active_j += joules_above_idle(fleet.power[replica.group], seconds, decodes, kv_tokens)


@kernel
def energy_j(fleet: Fleet, first: int, count: int, start_s: float, now_s: float) -> float:
    """Joules of `count` replicas from `first` on, from `start_s` to `now_s`.

    Iterations in flight count in full.
    """
    joules = 0.0
    for replica_id in range(first, first + count):
        replica = fleet.replicas[replica_id]
        power = fleet.power[replica.group]
        joules += replica.active_j + power.full_w * power.idle * (now_s - start_s)
    return joules
