"""EPD's role switching: a replica of the idlest stage goes over to the one with the longest queues.

Singh et al., "Efficiently Serving Large Multimodal Models Using EPD Disaggregation", arXiv 2501.05460. Of the
system we know that instances change between encode, prefill and decode in under 0.7 s when the queues of the
stages are out of balance; the rule itself is our reading. The pressure of a stage is the mean number of
requests that wait at its replicas. Where the highest is at least `queue_above`, and at least `ratio` times
the lowest, a replica of the stage with the lowest, of these the one with the fewest requests, takes the role
of the other: one at a time, and not before `hold_turns` turns have passed since the last. A stage keeps one
replica; mixed replicas are no stage. Not here: that what waits at the replica is given to its siblings; it
is served first.
"""

from typing import Annotated

import numpy as np

from servegym.agents.parameters import NonNegativeInt, PositiveFloat, at_least
from servegym.agents.published import Evidence, published
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.cluster.plan import MIXED, ROLES
from servegym.envs.sim.llm.cluster.state import ACTIVE, SWITCHING
from servegym.envs.sim.llm.rebalancer import BE_MIXED, Rebalancer, compiled_rebalancer
from servegym.envs.sim.llm.router import Array
from servegym.envs.sim.llm.view import ROLE, RUNNING, STANDING, WAITING

NUM_ROLES = len(ROLES)

QUEUE_ABOVE, RATIO, HOLD_TURNS = range(3)
"""Parameters. Memory: turns that are still to pass."""


@kernel
def _pressures(replicas: Array, pressures: Array, counts: Array) -> None:
    """Fills both (NUM_ROLES,): waiting requests a replica, and replicas that are active."""
    pressures[:] = 0.0
    counts[:] = 0.0
    for replica in range(replicas.shape[0]):
        if replicas[replica, STANDING] == ACTIVE:
            role = int(replicas[replica, ROLE])
            pressures[role] += replicas[replica, WAITING]
            counts[role] += 1
    for role in range(NUM_ROLES):
        pressures[role] /= max(1.0, counts[role])


@compiled_rebalancer
def choose(
    replicas: Array, parameters: Array, memory: Array, random_state: Array, moves: Array, orders: Array
) -> int:
    """Moves nobody; at most one order."""
    memory[0] = max(0.0, memory[0] - 1)
    for replica in range(replicas.shape[0]):
        if replicas[replica, STANDING] >= SWITCHING:
            return 0
    pressures, counts = np.empty(NUM_ROLES), np.empty(NUM_ROLES)
    _pressures(replicas, pressures, counts)
    highest, lowest = -1, -1
    for role in range(NUM_ROLES):
        if role == MIXED or counts[role] == 0:
            continue
        if highest < 0 or pressures[role] > pressures[highest]:
            highest = role
        if counts[role] > 1 and (lowest < 0 or pressures[role] < pressures[lowest]):
            lowest = role
    if highest < 0 or lowest < 0 or highest == lowest or memory[0] > 0:
        return 0
    if pressures[highest] < max(parameters[QUEUE_ABOVE], parameters[RATIO] * pressures[lowest]):
        return 0
    chosen, fewest = -1, np.inf
    for replica in range(replicas.shape[0]):
        row = replicas[replica]
        requests = row[RUNNING] + row[WAITING]
        if row[STANDING] == ACTIVE and row[ROLE] == lowest and requests < fewest:
            chosen, fewest = replica, requests
    orders[chosen] = BE_MIXED + highest
    memory[0] = parameters[HOLD_TURNS]
    return 0


@published(
    "rebalancer",
    source='Singh et al., "EPD Disaggregation", arXiv 2501.05460',
    evidence=Evidence.READING,
    complexity="O(R)",
)
def epd_role_switching(
    queue_above: PositiveFloat = 4.0,
    ratio: Annotated[float, at_least(1)] = 4.0,
    hold_turns: NonNegativeInt = 5,
) -> Rebalancer:
    """`queue_above`: waiting requests a replica; ours, as are `ratio` and `hold_turns`."""
    parameters = np.array([queue_above, ratio, hold_turns], np.float64)
    return Rebalancer("epd_role_switching", choose, parameters, memory_size=1, switches_roles=True)
