"""What a length predictor says of the requests on a replica: docs/simulator.md, "Refined predictions"."""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import computed_tokens
from servegym.envs.sim.llm.state import DECODING, HELD, NOBODY, Fleet
from servegym.envs.workloads.predictors import refined_remaining

_refined_remaining = kernel(refined_remaining)


@kernel
def predicted_remaining_tokens(fleet: Fleet, replica_id: int) -> float:
    """Of all requests running and waiting on a replica."""
    replica = fleet.replicas[replica_id]
    first_predictions = float(max(0, replica.predicted_tokens - replica.generated_tokens))
    return first_predictions if fleet.refinement[0] == 0.0 else _refined(fleet, replica_id)


@routine
def _refined(fleet, replica_id):
    replica = fleet.replicas[replica_id]
    remaining = float(replica.predicted_tokens - replica.generated_tokens)
    request_id = replica.running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        generated = generated_tokens(fleet, replica_id, request_id)
        remaining -= request.predicted_tokens - generated
        remaining += predicted_output_tokens(fleet, request_id, generated) - generated
        request_id = request.next
    return max(0.0, remaining)


@kernel
def generated_tokens(fleet: Fleet, replica_id: int, request_id: int) -> int:
    """Tokens that a running request has sampled by the end of the last iteration."""
    request = fleet.requests[request_id]
    generated: int = request.generated
    if request.state == DECODING:
        behind = 1 if request.chunk == HELD else 0  # it falls behind the others at the end of this iteration
        generated = computed_tokens(fleet, replica_id, request_id) + behind + 1 - request.prompt_tokens
    return generated


@kernel
def predicted_output_tokens(fleet: Fleet, request_id: int, generated: int) -> float:
    """Of a running request that has sampled `generated` tokens."""
    request = fleet.requests[request_id]
    if fleet.refinement[0] == 0.0:
        return float(request.predicted_tokens)
    predicted, output = request.predicted_tokens, request.output_tokens
    return generated + float(_refined_remaining(output, generated, predicted, fleet.refinement[0]))
