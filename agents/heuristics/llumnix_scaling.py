"""Llumnix's auto-scaling, by the average freeness of the fleet: one replica at a time.

Sun et al., "Llumnix: Dynamic Scheduling for Large Language Model Serving", OSDI 2024, section 4.4; read in
the authors' code (scale_scheduler.py, policy `avg_load`). The average is

    (blocks left on all replicas) / (requests on all replicas)

of those that take requests. Below `up_below` one more starts. Where it would be above `down_above` without
one of them, that one stops, down to `least`. It is the one with the fewest running requests, as the paper has
it (the code takes the last one); it drains, and the rebalancer moves its requests away. Our reading: while
one starts nothing else happens, and one that still drains goes on before another starts.
"""

import numpy as np

from servegym.agents.heuristics.llumnix_freeness import blocks_left, requests_charged
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.cluster.state import LEAVING, STARTING
from servegym.envs.sim.llm.rebalancer import START, STOP
from servegym.envs.sim.llm.router import Array
from servegym.envs.sim.llm.view import AVAILABLE, KV_TOTAL_BLOCKS, RUNNING, STANDING


@kernel
def scale(
    replicas: Array, of_freeness: Array, up_below: float, down_above: float, least: float, orders: Array
) -> None:
    """Writes at most one order into `orders` (R,); `of_freeness`: the parameters of freeness."""
    blocks, requests, serving, starting = 0.0, 0.0, 0, 0
    fewest, spare = -1, -1
    for replica in range(replicas.shape[0]):
        row = replicas[replica]
        starting += row[STANDING] == STARTING
        if row[AVAILABLE] > 0:
            serving += 1
            blocks += blocks_left(row, of_freeness)
            requests += requests_charged(row, of_freeness)
            if fewest < 0 or row[RUNNING] < replicas[fewest, RUNNING]:
                fewest = replica
        elif row[STANDING] >= LEAVING and (spare < 0 or row[STANDING] < replicas[spare, STANDING]):
            spare = replica
    if serving == 0 or (requests > 0 and blocks / requests < up_below):
        if spare >= 0 and starting == 0:
            orders[spare] = START
        return
    left = max(0.0, blocks - replicas[fewest, KV_TOTAL_BLOCKS])
    after = left / requests if requests > 0 else np.inf
    if serving > least and starting == 0 and after > down_above:
        orders[fewest] = STOP
