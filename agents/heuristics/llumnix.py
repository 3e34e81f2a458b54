"""Llumnix's rescheduling and scaling: running requests move from the fullest replicas to the freest.

Sun et al., "Llumnix: Dynamic Scheduling for Large Language Model Serving", OSDI 2024, section 4.4; read in
the authors' code. Who is below `out_below` in freeness (llumnix_freeness.py) is a source, who is above
`in_above` a target; the source of the lowest freeness is paired with the target of the highest, and so on
(its policy `defrag`: always; `balanced`, which also asks whether the two come closer, is not here). A replica
that takes no more requests has the freeness minus infinity, so that it drains. Which request leaves a source
is the simulator's rule, and Llumnix's: low priority and short first; never an urgent one, unless it drains.

With `scaling` the fleet is looked at every `scale_turns` turns, see llumnix_scaling.py.
"""

from typing import Annotated

import numpy as np

from servegym.agents.heuristics.llumnix_freeness import freeness
from servegym.agents.heuristics.llumnix_scaling import scale
from servegym.agents.parameters import NonNegativeFloat, PositiveInt, below
from servegym.agents.published import Evidence, published
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.rebalancer import Rebalancer, compiled_rebalancer
from servegym.envs.sim.llm.router import Array
from servegym.envs.sim.llm.view import AVAILABLE, DECODE_CONTEXT_TOKENS, RUNNING, URGENT

OUT_BELOW, IN_ABOVE, SCALE_TURNS, UP_BELOW, DOWN_ABOVE, LEAST = range(4, 10)
"""Parameters after those of freeness; SCALE_TURNS: 0 for no scaling. Memory: turns so far."""


@compiled_rebalancer
def choose(
    replicas: Array, parameters: Array, memory: Array, random_state: Array, moves: Array, orders: Array
) -> int:
    """Pairs sources with targets, and starts or stops a replica."""
    memory[0] += 1
    if parameters[SCALE_TURNS] > 0 and memory[0] % parameters[SCALE_TURNS] == 0:
        up_below, down_above, least = parameters[UP_BELOW], parameters[DOWN_ABOVE], parameters[LEAST]
        scale(replicas, parameters, up_below, down_above, least, orders)
    count = replicas.shape[0]
    free = np.empty(count)
    for i in range(count):
        free[i] = freeness(replicas[i], parameters) if replicas[i, AVAILABLE] > 0 else -np.inf
    order = np.argsort(free, kind="mergesort")  # of equals the lowest number first
    number, last = 0, count - 1
    for source in order:
        row = replicas[source]
        if free[source] >= parameters[OUT_BELOW]:
            break
        if row[DECODE_CONTEXT_TOKENS] == 0 or (row[AVAILABLE] > 0 and row[URGENT] >= row[RUNNING]):
            continue
        target = order[last]
        if free[target] <= parameters[IN_ABOVE]:
            break
        moves[number, 0], moves[number, 1] = source, target
        number += 1
        last -= 1
    return number


@published(
    "rebalancer",
    source='Sun et al., "Llumnix", OSDI 2024, arXiv 2406.03243',
    evidence=Evidence.CODE,
    complexity="O(R log R)",
)
def llumnix_rebalancer(
    out_below: float = 3.0,
    in_above: float = 3.0,
    defrag: bool = True,
    watermark: Annotated[float, below(0, 1)] = 0.01,
    block_size: PositiveInt = 16,
    urgent_load_tokens: PositiveInt = 1600,
    scaling: bool = False,
    scale_turns: PositiveInt = 10,
    scale_up_below: NonNegativeFloat = 10.0,
    scale_down_above: NonNegativeFloat = 60.0,
    min_replicas: PositiveInt = 1,
) -> Rebalancer:
    """Llumnix's defaults. Thresholds of freeness are in KV blocks per request.

    out_below, in_above: whose freeness is below the first gives requests, above the second takes them.
    defrag, watermark (share of the blocks left free), block_size (tokens, the engines'), urgent_load_tokens
    (what a replica with urgent requests may hold): of freeness, see llumnix_freeness.py.
    scaling: whether replicas start and stop, looked at every `scale_turns` turns; one starts where the
    fleet's freeness is below scale_up_below, and one stops where it would stay above scale_down_above
    without it, down to min_replicas.
    """
    if out_below > in_above:
        raise InputError(
            f"rebalancer.out_below, in_above = {out_below}, {in_above}: the first must not be above the other"
        )
    if scale_up_below > scale_down_above:
        raise InputError(
            f"rebalancer.scale_up_below, scale_down_above = {scale_up_below}, {scale_down_above}: the first "
            "must not be above the other"
        )
    of_freeness = [defrag, watermark, block_size, urgent_load_tokens]
    of_scaling = [scale_turns * scaling, scale_up_below, scale_down_above, min_replicas]
    parameters = np.array([*of_freeness, out_below, in_above, *of_scaling], np.float64)
    return Rebalancer("llumnix", choose, parameters, memory_size=1)
