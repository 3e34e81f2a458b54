"""Putting off a decode that keeps its KV blocks, and going on with it."""

from servegym.costmodels.native.jit import routine
from servegym.envs.sim.llm.batch import join_decodes, leave_decodes, leave_paused
from servegym.envs.sim.llm.memory import blocks_for
from servegym.envs.sim.llm.queues import remove_due
from servegym.envs.sim.llm.state import PAUSED, Fleet


@routine
def pause(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """A decode stays in `running`, in no batch until it is resumed."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    request.computed = request.anchor + replica.iteration
    request.generated = request.computed + 1 - request.prompt_tokens
    remove_due(fleet.due[replica_id], replica.num_decodes, request_id)
    leave_decodes(fleet, replica_id, request_id)
    request.state = PAUSED
    request.blocks = blocks_for(request.computed, fleet.engines[replica.group].block_size)
    replica.prefill_blocks += request.blocks
    replica.num_paused += 1
    replica.paused_context += request.computed


@routine
def resume(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """A paused request decodes again, from this batch on."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    leave_paused(fleet, replica_id, request_id)
    due = replica.iteration + request.output_tokens - request.generated
    join_decodes(fleet, replica_id, request_id, request.computed, due)
