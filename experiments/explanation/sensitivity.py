"""How much a choice depends on each number that a policy sees.

Permutation (Breiman, "Random forests", 2001, of predictions; here of choices): a column changes places among
decisions, all rows of a decision together, and everything else stays. What the policy looks at then leads it
to other choices. Columns that say the same things stand in for each other, so none of them may show.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.costmodels.progress import tracked
from servegym.experiments.explanation.decisions import Decisions, Scored

IMPOSSIBLE = -1e8
"""Scores below it are of actions that may not be taken."""


class Sensitivity(NamedTuple):
    """Of one number that a policy sees.

    varies: whether it has more than one value; if not, nothing can be said. changed: share of choices that
    change. margin_lost: of the lead that the score of the choice has over the next best, the share that is
    lost on average. gradient: mean absolute change of that lead with the number, summed over rows, times the
    standard deviation of the number; None without the network.
    """

    input: str
    feature: str
    unit: str
    varies: bool
    changed: float
    margin_lost: float
    gradient: float | None


def sensitivities(
    policy: Scored,
    decisions: Decisions,
    columns: Mapping[str, tuple[tuple[str, str], ...]],
    gradients: Mapping[str, npt.NDArray[np.float64]] | None,
    rng: np.random.Generator,
) -> list[Sensitivity]:
    """Of all columns, those that change most choices first.

    columns: names and units of each input, in order. gradients: of each input (F,), see `margin_gradients`.
    """
    due = _margins(policy, decisions, decisions.observation)
    found = []
    all_columns = [(name, *each) for name, of in columns.items() for each in enumerate(of)]
    for name, column, (feature, unit) in tracked(all_columns, "Permuting", "features"):
        array = decisions.observation[name]
        permuted = array.copy()
        permuted[..., column] = array[rng.permutation(len(array))][..., column]
        margins = _margins(policy, decisions, {**decisions.observation, name: permuted})
        possible = np.isfinite(margins)
        lost = 1.0 - float(margins[possible].mean() / due[possible].mean())
        values = array[..., column]
        gradient = None if gradients is None else float(gradients[name][column] * values.std())
        varies, changed = bool(np.ptp(values) > 0), float((margins < 0).mean())
        found.append(Sensitivity(name, feature, unit, varies, changed, lost, gradient))
    return sorted(found, key=lambda each: each.changed, reverse=True)


def _margins(policy: Scored, decisions: Decisions, observation: dict[str, Any]) -> npt.NDArray[np.float64]:
    """How far the score of each choice is above the best other one; not finite where but one is possible."""
    scores = policy.scores(observation).astype(np.float64)
    scores[scores < IMPOSSIBLE] = -np.inf
    rows = np.arange(len(scores))
    chosen = scores[rows, decisions.actions]
    scores[rows, decisions.actions] = -np.inf
    margins: npt.NDArray[np.float64] = chosen - scores.max(axis=1)
    return margins


def margin_gradients(network: Any, decisions: Decisions) -> dict[str, npt.NDArray[np.float64]]:
    """Mean absolute gradient of the margin by each column, summed over rows, by input: (F,).

    network: an `ActionNetwork`, whose choices the decisions are.
    """
    import torch

    inputs = {name: torch.tensor(array, requires_grad=True) for name, array in decisions.observation.items()}
    logits, _ = network(**inputs)
    chosen = torch.from_numpy(decisions.actions).unsqueeze(1)
    margins = logits.gather(1, chosen).squeeze(1) - logits.scatter(1, chosen, -torch.inf).amax(dim=1)
    margins.sum().backward()
    gradients = {}
    for name, tensor in inputs.items():
        each = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.abs().numpy()
        of_rows = each.reshape(len(each), -1, each.shape[-1]).sum(axis=1)
        gradients[name] = of_rows.mean(axis=0, dtype=np.float64)
    return gradients
