"""How often a scheduler admits whom a plain order of the queue would have admitted."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from servegym.envs.sim.llm import decision_view as view
from servegym.envs.sim.llm.decisions import VISIBLE
from servegym.experiments.explanation.agreement import Agreement, agreement_of
from servegym.experiments.explanation.decisions import Decisions

Rows = npt.NDArray[np.float32]

ORDERS: dict[str, Callable[[Rows], Rows]] = {
    "first come first served": lambda rows: -rows[..., view.SINCE_ARRIVAL_S],
    "most urgent first": lambda rows: rows[..., view.PRIORITY],
    "shortest prompt first": lambda rows: rows[..., view.PROMPT_TOKENS],
    "shortest predicted output first": lambda rows: rows[..., view.PREDICTED_OUTPUT_TOKENS],
    "shortest predicted remaining time first": lambda rows: (
        rows[..., view.KNOWN_TOKENS]
        - rows[..., view.COMPUTED_TOKENS]
        + rows[..., view.PREDICTED_OUTPUT_TOKENS]
        - rows[..., view.GENERATED_TOKENS]
    ),
}
"""Of waiting requests the smallest first; equal ones as they stand in the queue."""


def admissions(decisions: Decisions) -> Decisions:
    """The decisions that admit one of several requests that could have been."""
    could = decisions.legal[:, :VISIBLE].sum(axis=1) > 1
    return decisions.at((decisions.actions < VISIBLE) & could)


def order_agreements(decisions: Decisions) -> list[Agreement]:
    """At admissions, with each of ORDERS of those who can be admitted, most agreement first."""
    admitted = admissions(decisions)
    if len(admitted.actions) == 0:
        return []
    waiting = admitted.observation["requests"][:, :VISIBLE]
    legal = admitted.legal[:, :VISIBLE]
    chosen = waiting[np.arange(len(waiting)), admitted.actions]
    same = (waiting == chosen[:, None]).all(axis=2)
    found = []
    for name, key in ORDERS.items():
        choices = np.where(legal, key(waiting), np.inf).argmin(axis=1)
        found.append(agreement_of(name, same, legal, choices))
    return sorted(found, key=lambda each: each.share, reverse=True)
