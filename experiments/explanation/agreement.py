"""How often each published router would have chosen what a policy chose, asked on the policy's own way."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.agents.heuristics import ROUTERS, HeuristicPolicy
from servegym.costmodels.errors import InputError
from servegym.costmodels.progress import tracked
from servegym.envs.scenario import Scenario
from servegym.experiments.evaluation.contenders import configured_router
from servegym.experiments.explanation.decisions import Decisions


class Agreement(NamedTuple):
    """Of a policy with one rule.

    share: of decisions at which the rule would have chosen the same, or what looks just like it. by_chance:
    the same of one drawn among those it could have chosen. above_chance: (share - by_chance) / (1 -
    by_chance), 1 for the same choices, 0 for unrelated ones.
    """

    rule: str
    share: float
    by_chance: float
    above_chance: float


def agreements(decisions: Decisions, scenario: Scenario, seed: int) -> tuple[list[Agreement], dict[str, str]]:
    """With every router that decides from observations, most agreement first; of the others, why they cannot.

    Routers with a memory remember what they would have chosen themselves.
    """
    same = same_replicas(decisions)
    found, left_out = [], {}
    for name in tracked(ROUTERS, "Asking routers", "routers"):
        try:
            choices = choices_of(name, decisions, scenario, seed)
        except InputError as error:
            left_out[name] = str(error)
            continue
        found.append(agreement_of(name, same, decisions.legal, choices))
    return sorted(found, key=lambda each: each.share, reverse=True), left_out


def agreement_of(
    rule: str, same: npt.NDArray[np.bool_], legal: npt.NDArray[np.bool_], choices: npt.NDArray[np.int64]
) -> Agreement:
    """same: bool (N, A), the policy's choices and what is as good. legal: likewise. choices: of the rule."""
    share = float(same[np.arange(len(choices)), choices].mean())
    by_chance = float(((same & legal).sum(axis=1) / legal.sum(axis=1)).mean())
    above = (share - by_chance) / (1 - by_chance) if by_chance < 1 else 1.0
    return Agreement(rule, share, by_chance, above)


def same_replicas(decisions: Decisions) -> npt.NDArray[np.bool_]:
    """bool (N, R): the replica chosen, and those that looked just like it."""
    replicas = decisions.observation["replicas"]
    chosen = replicas[np.arange(len(replicas)), decisions.actions]
    same: npt.NDArray[np.bool_] = (replicas == chosen[:, None]).all(axis=2)
    return same


def same_choice(decisions: Decisions, choices: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """bool (N,): where other choices, int64 (N,), are as good as the same."""
    return same_replicas(decisions)[np.arange(len(choices)), choices]


def choices_of(name: str, decisions: Decisions, scenario: Scenario, seed: int) -> npt.NDArray[np.int64]:
    """What a router would have chosen, int64 (N,).

    InputError where it needs what the scenario lacks, or what observations do not have.
    """
    known = configured_router(name, scenario)
    scenario.check_router(known)
    router = HeuristicPolicy(known)
    choices = np.empty(len(decisions.actions), np.int64)
    for row, workload in enumerate(decisions.workload):
        if row == 0 or workload != decisions.workload[row - 1]:
            router.reset(1, seed + int(workload))
        seen = {name: array[row : row + 1] for name, array in decisions.observation.items()}
        choices[row] = router.act(seen)[0]
    return choices
