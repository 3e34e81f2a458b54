"""The optimal policy of a batching server, by relative value iteration.

The semi-Markov process (model.py) is turned into a Markov one in steps of `eta` seconds with the same
average cost (uniformisation; Puterman, "Markov Decision Processes", 11.4): an action that takes y seconds
costs `c / y` a second, and ends in a step with probability `eta / y`. One sweep of value iteration bounds the
optimal average cost from both sides, by the least and the largest growth of a value (Puterman, 8.5): sweeps
end when these are close. Near the largest rate values settle long after the policy: when that has not
changed for a while, its own values, from linear equations, replace them (modified policy iteration).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import spsolve

from servegym.agents.smdp.evaluate import Evaluation, evaluate
from servegym.agents.smdp.model import MOST_TRANSITIONS, Model, most_queue, require_solvable
from servegym.agents.smdp.policy import control_limit_of
from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario

Floats = npt.NDArray[np.float64]

MOST_SWEEPS = 100_000
RARE = 1e-9
SETTLED = 8
"""Sweeps without a change of policy, after which its own values are put in."""


@dataclass(frozen=True)
class Solution:
    """An optimal policy and what it costs."""

    cost: float
    """Optimal average of `response_weight * response in s + power_weight * power in W`."""
    sizes: npt.NDArray[np.int64]
    """(max_queue + 2,): the batch to start when 0, 1, ... requests wait, 0 to wait; the last for any more."""
    values: Floats
    """(max_queue + 1,): what it costs more in total to begin with so many waiting than with none."""
    control_limit: int | None
    """Q where the policy is: wait for Q requests, then serve all that wait, up to `max_batch`; as far as
    `usual_queue`."""
    usual_queue: int
    """The longest queue that more than 1e-9 of the decisions see."""
    iterations: int
    """Sweeps."""
    span: float
    """Upper minus lower bound of `cost`, over `cost`."""
    max_queue: int
    tail_share: float
    """Of all decisions under this policy, the share with more than `max_queue` waiting."""
    doubling_change: float
    """Of `cost`, relative, when `max_queue` is doubled: known to a tenth of what is tolerated."""
    exact: Evaluation
    """Of this policy, without truncation and discrete time (evaluate.py)."""


def solve(
    scenario: DynamicBatchingScenario,
    max_queue: int | None = None,
    span: float = 1e-9,
    truncation: float = 1e-6,
) -> Solution:
    """max_queue: states 0 to so many, None: twice `max_batch`. span: relative, at which sweeps end.

    truncation: largest change of the cost, relative, when `max_queue` is doubled. InputError where it is
    more, for scenarios without an optimum, and for queues too long for memory.
    """
    for key, value in (("span", span), ("truncation", truncation)):
        if not 0 < value < 1:
            raise InputError(f"{key} = {value}: must be between 0 and 1")
    longest = 2 * scenario.max_batch if max_queue is None else max_queue
    require_solvable(scenario)
    if longest > (most := most_queue(scenario) // 2):
        raise InputError(
            f"max_queue = {longest}: must be at most {most} with batches of {scenario.min_batch} to "
            f"{scenario.max_batch} at this rate, else doubling it takes more than {MOST_TRANSITIONS:,} "
            "transitions"
        )
    model = Model.of(scenario, longest)
    cost, width, values, sizes, iterations = _iterate(model, np.zeros(longest + 1), span)
    further = model.tail.values(longest, np.arange(1.0, longest + 1), cost)
    start = np.concatenate([values, values[-1] + further])
    doubled, *_ = _iterate(Model.of(scenario, 2 * longest), start, max(span, truncation / 10))
    change = abs(doubled - cost) / cost
    if change > truncation:
        raise InputError(
            f"max_queue = {longest}: doubling it changes the cost by {change:.2g} of itself, must be at most "
            f"{truncation:g}"
        )
    table = np.append(sizes, model.tail.batch)
    exact = evaluate(scenario, table)
    usual = int(np.flatnonzero(exact.queue_shares > RARE)[-1])
    return Solution(
        cost=cost,
        sizes=table,
        values=values,
        control_limit=control_limit_of(table[: usual + 1], scenario.max_batch),
        iterations=iterations,
        span=width,
        usual_queue=usual,
        max_queue=longest,
        tail_share=float(exact.queue_shares[longest + 1 :].sum()),
        doubling_change=change,
        exact=exact,
    )


def _iterate(
    model: Model, values: Floats, span: float
) -> tuple[float, float, Floats, npt.NDArray[np.int64], int]:
    """Cost, relative span, values, sizes and sweeps, beginning with `values`."""
    step_s = 0.99 * model.seconds.min()  # below 1: a step may stay where it is, so nothing is periodic
    ends = step_s / model.seconds
    rate = model.cost / model.seconds
    moves = sparse.diags_array(ends.ravel()) @ model.transitions
    scaled = values / step_s
    policy, settled = np.zeros(len(values), np.int64), 0
    for sweep in range(1, MOST_SWEEPS + 1):
        of_action = rate + (moves @ scaled).reshape(rate.shape) + (1 - ends) * scaled
        updated, best = of_action.min(axis=0), of_action.argmin(axis=0)
        growth = updated - scaled
        low, high = float(growth.min()), float(growth.max())
        scaled = updated - updated[0]
        if high - low <= span * abs(low):
            cost = (low + high) / 2
            return cost, (high - low) / cost, scaled * step_s, model.actions[best], sweep
        settled = settled + 1 if np.array_equal(best, policy) else 0
        policy = best
        if settled == SETTLED:
            scaled = _values_of(model, policy) / step_s
    raise InputError(
        f"span = {span:g}: not reached in {MOST_SWEEPS:,} sweeps (at {(high - low) / abs(low):.2g})"
    )


def _values_of(model: Model, policy: npt.NDArray[np.int64]) -> Floats:
    """Relative values h of a policy, the rows of its actions: `h = cost - g seconds + P h`, h(0) = 0."""
    states = np.arange(len(policy))
    moves = model.transitions[policy * len(policy) + states] - sparse.eye_array(len(policy), format="csr")
    seconds = -model.seconds[policy, states][:, None]  # in place of h(0), g
    system = sparse.hstack([sparse.csr_array(seconds), moves[:, 1:]], format="csc")
    values: Floats = spsolve(system, -model.cost[policy, states])
    values[0] = 0.0
    return values
