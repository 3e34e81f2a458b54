"""Performance profiles: of each policy the share of runs that do as well as any level, with bands."""

from collections.abc import Sequence

import numpy as np

from servegym.experiments.evaluation.statistics import performance_profile, performance_profile_band
from servegym.experiments.reporting.figure import Axis, Figure, Series, Values, file_name

NUM_LEVELS = 81


def profile_figure(
    words: Sequence[str], title: str, score: str, scores: dict[str, Values], shown: Sequence[str] = ()
) -> Figure:
    """Of scores (C scenarios, T training runs, S test seeds) by policy, of which less is better.

    score: what a score is, in words. shown: policies, in their order; without, all of them.
    """
    of_shown = {policy: scores[policy] for policy in shown or scores}
    levels = _levels(of_shown)
    series = []
    for policy, values in of_shown.items():
        low, high = performance_profile_band(values, levels)
        series.append(Series(policy, levels, performance_profile(values, levels), low, high, drawn="steps"))
    return Figure(
        file_name(*words),
        title,
        "Share of all runs (scenario, training seed, test seed) whose score is at most this. The curve "
        "further left and higher is better; bands are pointwise 95 % stratified bootstrap intervals over "
        "training runs and test seeds (Agarwal et al., NeurIPS 2021).",
        Axis(f"score: {score}"),
        Axis("share of runs", share=True, span=(0, 1)),
        series,
    )


def _levels(scores: dict[str, Values]) -> Values:
    """From the best score to where most policies have almost all of theirs."""
    lowest = min(float(values.min()) for values in scores.values())
    highest = float(np.median([np.quantile(values, 0.98) for values in scores.values()]))
    return np.linspace(lowest, max(highest, lowest * 1.05), NUM_LEVELS)
