"""Run to completion, as FasterTransformer batches: nobody joins a batch that is under way."""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import admit, give_chunk, known_tokens
from servegym.envs.sim.llm.memory import blocks_for
from servegym.envs.sim.llm.queues import REQUEST_BITS
from servegym.envs.sim.llm.state import Fleet


@routine
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch together: whole prompts where nobody runs, else all decodes."""
    replica = fleet.replicas[replica_id]
    if replica.num_running > 0:
        return
    tokens, blocks = 0, 0
    while replica.num_waiting > 0:
        tokens, blocks = with_one_more(fleet, replica_id, replica.waiting_first, tokens, blocks)
        if tokens < 0:
            return
        begin(fleet, replica_id, replica.waiting_first)


@kernel
def with_one_more(
    fleet: Fleet, replica_id: int, request_id: int, tokens: int, blocks: int
) -> tuple[int, int]:
    """Tokens and promised blocks of a batch with so many when a request joins it; -1, -1: it does not fit."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    request = fleet.requests[request_id]
    tokens += known_tokens(fleet, request_id)
    blocks += blocks_for(request.prompt_tokens + request.max_output_tokens - 1, engine.block_size)
    fits = tokens <= engine.max_num_batched_tokens and blocks <= engine.num_kv_blocks
    if fits and replica.num_running < engine.max_num_seqs:
        return tokens, blocks
    return -1, -1


@kernel
def begin(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """A request joins the batch with its whole prompt."""
    known = known_tokens(fleet, request_id)
    size = fleet.engines[fleet.replicas[replica_id].group].block_size
    admit(fleet, replica_id, request_id, blocks_for(known, size))
    give_chunk(fleet, replica_id, request_id, known)


@routine
def horizon(fleet: Fleet, replica_id: int) -> int:
    """Iterations until the next request finishes; the blocks are known to suffice."""
    replica = fleet.replicas[replica_id]
    if replica.num_decodes == 0:
        return 0
    until_completion: int = (fleet.due[replica_id, 0] >> REQUEST_BITS) - replica.iteration
    return until_completion
