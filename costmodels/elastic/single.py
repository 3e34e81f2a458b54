"""The clock of one instance for engines without sequence parallelism: what rivals of LoongServe run on."""

import numpy as np

from servegym.costmodels.elastic.cost import ElasticCost
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost, validate_iteration_cost


def single_instance_cost(
    cost: ElasticCost, max_num_batched_tokens: int, engine_s: float = 0.0
) -> IterationCost:
    """Iterations of one instance of a fleet, as the simulator of LLM engines counts them.

    With A, B, C of one instance: prefill chunks of `c` tokens after `h` take A and, each of them,
    `B c + C ((h + c)^2 - h^2)`, so that a prompt takes the same however it is cut, but for A; decodes alone
    take what those of a group of one member do. Both together (ours): B for each decode too, and the
    attention of the decodes without the wait for launches, which A has. `engine_s` is added to every
    iteration: what the engine itself does beside LoongServe's. InputError where decodes would take less than
    B each.
    """
    constant_s, per_token_s, per_token_squared_s = cost.prefill_s[0, 1]
    group = cost.iteration
    seqs = group.lm_head_s.size - 1
    if max_num_batched_tokens < seqs:
        raise InputError(
            f"max_num_batched_tokens is {max_num_batched_tokens}, must be at least the {seqs} requests that "
            "the cost model covers"
        )
    # A chunk has c h + c (c + 1) / 2 pairs, of 2 C each: C c more than it should take.
    linear_s = (per_token_s - per_token_squared_s) * np.arange(max_num_batched_tokens + 1.0)
    step_s = group.overhead_s + group.linear_s + group.communication_s
    step_s = (step_s[: seqs + 1] + group.lm_head_s + group.sampler_s)[:, None]
    decode_s = step_s + group.decode_attention_s
    if cost.decode_s > 0:
        decode_s = np.full_like(group.decode_attention_s, cost.decode_s)
    decode_s -= linear_s[: seqs + 1, None]
    decode_s[0] = 0.0
    if not (decode_s >= 0).all():
        row = int(np.flatnonzero((decode_s < 0).any(axis=1))[0])
        given = f"decode_s = {cost.decode_s}: " if cost.decode_s > 0 else ""
        raise InputError(
            f"{given}an iteration of {row} decodes takes less than {row} more tokens of a prefill, must be "
            f"at least {linear_s[row]:.3g} s"
        )
    single = IterationCost(
        overhead_s=float(engine_s),
        linear_s=linear_s,
        communication_s=np.zeros_like(linear_s),
        lm_head_s=np.zeros(seqs + 1),
        sampler_s=np.zeros(seqs + 1),
        prefill_chunk_knots=np.ones(1),
        prefill_history_knots=np.zeros(1),
        prefill_s_per_pair=np.full((1, 1), 2 * per_token_squared_s),
        decode_kv_knots=group.decode_kv_knots,
        decode_attention_s=decode_s,
        mixed_decode_attention_s=group.mixed_decode_attention_s,
        mixed_s_per_pair=0.0,
        prefill_overhead_s=float(constant_s),
    )
    validate_iteration_cost(single)
    return single
