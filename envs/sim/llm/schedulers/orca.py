"""Orca's iteration-level scheduling (Yu et al., OSDI 2022): memory for the longest request is reserved."""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import admit, give_chunk, known_tokens
from servegym.envs.sim.llm.memory import free_now
from servegym.envs.sim.llm.queues import REQUEST_BITS
from servegym.envs.sim.llm.state import Fleet


@routine
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch together: all running requests, then whole prompts."""
    replica = fleet.replicas[replica_id]
    tokens = replica.num_decodes
    while _head_fits(fleet, replica_id, tokens):
        request_id = replica.waiting_first
        known = known_tokens(fleet, request_id)
        admit(fleet, replica_id, request_id, fleet.engines[replica.group].reserved_blocks)
        give_chunk(fleet, replica_id, request_id, known)
        tokens += known


@kernel
def _head_fits(fleet, replica_id, tokens):
    """Whether the head of the queue joins a batch of so many tokens."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    return (
        replica.num_waiting > 0
        and replica.num_running < engine.max_num_seqs
        and tokens + known_tokens(fleet, replica.waiting_first) <= engine.max_num_batched_tokens
        and free_now(fleet, replica_id) >= engine.reserved_blocks
    )


@routine
def horizon(fleet: Fleet, replica_id: int) -> int:
    """Iterations in which nothing but the same decodes run; only a completion makes room."""
    replica = fleet.replicas[replica_id]
    if replica.num_prefilling > 0 or replica.num_decodes == 0:
        return 0
    if _head_fits(fleet, replica_id, replica.num_decodes):
        return 0
    until_completion: int = (fleet.due[replica_id, 0] >> REQUEST_BITS) - replica.iteration
    return until_completion
