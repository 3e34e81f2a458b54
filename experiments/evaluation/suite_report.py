"""The page of a suite's evaluation, in Markdown: small tables that a reader needs no other file for."""

import math
from collections.abc import Sequence

from servegym.envs.suites import Suite
from servegym.experiments.evaluation.statistics import Estimate, interquartile_mean
from servegym.experiments.evaluation.suite_runs import CLASS_METRICS, NotPlayed, Played
from servegym.experiments.evaluation.suite_scores import PlayedEntry, Standing, SuiteScores

YARDSTICKS = {
    "servegym/Routing-v0": ("jsq", "predicted_ttft"),
    "servegym/Batching-v0": ("fcfs",),
    "servegym/TwoLevel-v0": ("jsq",),
}
"""Shown beside the best heuristic where tails are, which a good mean may be paid with."""

MOST_ROWS = 20
"""Heuristics in the table of all scenarios."""

TAILS = {
    "mean_latency_s": ("mean latency, s", 1.0, 3),
    "p99_latency_s": ("P99 latency, s", 1.0, 2),
    "mean_ttft_s": ("mean TTFT, ms", 1e3, 1),
    "p99_ttft_s": ("P99 TTFT, ms", 1e3, 1),
    "longest_wait_s": ("longest wait, s", 1.0, 2),
    "slo_attainment": ("within SLO, %", 1e2, 1),
    "finished_share": ("finished, %", 1e2, 2),
}
"""Of METRICS: heading with unit, units per SI unit, decimals."""


def suite_page(suite: Suite, scores: SuiteScores, command: str) -> str:
    """All of it."""
    learned = [each.name for each in scores.entrants if each.is_learned and each.name in scores.aggregates]
    sections = [
        f"# Suite {suite.name}, version {suite.version}\n",
        f"`{command}`: {len(scores.entries)} scenarios of {suite.environment}, "
        f"{len(scores.seeds)} test seeds. A score is the metric over the mean of the best heuristic of that "
        "scenario: below 1 is better than all of them. Intervals are 95 % stratified bootstrap.\n",
        "## All scenarios\n",
        _overall(scores),
        *(_reached(scores, name) for name in learned),
        "## By scenario\n",
        _by_scenario(suite, scores, learned),
        "## Tails\n",
        *(
            _tails(name, entry, _shown(suite, scores, name, learned))
            for name, entry in scores.entries.items()
        ),
        *_classes(suite, scores, learned),
        *_comparisons(scores),
        *_not_played(scores),
    ]
    return "\n".join(sections) + "\n"


def with_interval(found: tuple[float, float, float], decimals: int = 3) -> str:
    """0.912 (0.905 to 0.920)."""
    value, low, high = (f"{number:.{decimals}f}" for number in found)
    return f"{value} ({low} to {high})"


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table, a newline at the end."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def tally(scores: SuiteScores, policy: str) -> tuple[dict[str, int], str]:
    """How often a policy is better or worse than the best heuristic, or undecided; and where it is worst."""
    standings = {name: found[policy] for name, found in scores.standings.items() if policy in found}
    counts = {
        verdict: sum(each.verdict == verdict for each in standings.values())
        for verdict in ("better", "undecided", "worse", "best")
    }
    return counts, max(standings, key=lambda name: standings[name].change.iqm)


def _overall(scores: SuiteScores) -> str:
    learned = {each.name for each in scores.entrants if each.is_learned}
    heuristics = [name for name in scores.ranking if name not in learned]
    rows = []
    for name in scores.ranking:
        if name not in learned and name not in heuristics[:MOST_ROWS]:
            continue
        counts, worst = tally(scores, name)
        played = len(scores.played_by(name))
        rows.append(
            (
                f"**{name}**" if name in learned else name,
                with_interval(scores.aggregates[name]),
                f"{played} of {len(scores.entries)}",
                f"{counts['better']}, {counts['undecided'] + counts['best']}, {counts['worse']}",
                f"{_percent(scores.standings[worst][name].change.iqm)} on {worst}",
            )
        )
    hidden = len(heuristics) - MOST_ROWS
    more = f"\n{hidden} more heuristics, all with worse scores, are in summary.csv.\n" if hidden > 0 else ""
    heading = ("policy", "score", "scenarios", "better, level, worse than the best heuristic", "worst")
    return markdown_table(heading, rows) + more


def _reached(scores: SuiteScores, policy: str) -> str:
    """What can be said of a learned policy, in a list."""
    against = [each for each in scores.comparisons if each.policy == policy]
    heuristics = {each.name for each in scores.entrants if not each.is_learned}
    rivals = [each for each in against if each.against in heuristics]
    apart = [each for each in rivals if each.iqm.high < each.against_iqm.low]
    counts, worst = tally(scores, policy)
    change = scores.standings[worst][policy].change
    halved = [
        name
        for name, found in scores.standings.items()
        if policy in found and found[policy].gap_closed >= 0.5
    ]
    overlapping = [each.against for each in rivals if each not in apart]
    lines = [
        f"intervals apart from {len(apart)} of {len(rivals)} heuristics, on the scenarios of both"
        + (f" (not from {', '.join(overlapping)})" if overlapping else ""),
        f"strictly better than the best heuristic of the scenario on {counts['better']} of "
        f"{len(scores.played_by(policy))} scenarios, strictly worse on {counts['worse']}",
        f"worst on {worst}: {_change(change)}",
        f"at least half of the gap to the clairvoyant bound closed on: {', '.join(halved) or 'none'}",
    ]
    return f"\n**{policy}**\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def _by_scenario(suite: Suite, scores: SuiteScores, learned: list[str]) -> str:
    columns = learned or scores.ranking[:3]
    rows = []
    for name, entry in scores.entries.items():
        best = scores.best[name]
        bound = "none" if isinstance(entry.bound, str) else f"{entry.bound.mean():.4g}"
        rows.append(
            (
                name + (" (test only)" if suite.entries[name].test_only else ""),
                entry.metric,
                f"{best}, {scores.standings[name][best].mean:.4g}",
                bound,
                *(_standing(scores.standings[name].get(policy)) for policy in columns),
            )
        )
    reasons = {name: entry.bound for name, entry in scores.entries.items() if isinstance(entry.bound, str)}
    told = "".join(f"- {name}: {reason}\n" for name, reason in reasons.items())
    return (
        markdown_table(("scenario", "metric", "best heuristic", "clairvoyant bound", *columns), rows)
        + "\nScore; change against the best heuristic on the same requests; share of the gap closed.\n"
        + (f"\nNo bound:\n\n{told}" if told else "")
    )


def _standing(found: Standing | None) -> str:
    if found is None:
        return "not played"
    closed = f", {100 * found.gap_closed:.0f} %" if math.isfinite(found.gap_closed) else ""
    return f"{found.score.iqm:.3f}; {_percent(found.change.iqm)}, {found.verdict}{closed}"


def _shown(suite: Suite, scores: SuiteScores, entry: str, learned: list[str]) -> list[str]:
    names = dict.fromkeys([*learned, scores.best[entry], *YARDSTICKS.get(suite.environment, ())])
    return [name for name in names if isinstance(scores.entries[entry].played.get(name), Played)]


def _tails(name: str, entry: PlayedEntry, shown: list[str]) -> str:
    rows = []
    for policy in shown:
        found = entry.played[policy]
        assert isinstance(found, Played)
        values = [(float(interquartile_mean(found.metrics[key].ravel())), *how) for key, how in TAILS.items()]
        rows.append((policy, *(f"{value * factor:.{decimals}f}" for value, _, factor, decimals in values)))
    return f"{name}\n\n" + markdown_table(("policy", *(how[0] for how in TAILS.values())), rows)


def _classes(suite: Suite, scores: SuiteScores, learned: list[str]) -> list[str]:
    rows = []
    for name, entry in scores.entries.items():
        for policy in _shown(suite, scores, name, learned):
            found = entry.played[policy]
            assert isinstance(found, Played)
            rows += [
                (name, policy, of, *(f"{figures[metric]:.4g}" for metric in CLASS_METRICS))
                for of, figures in found.classes.items()
            ]
    if not rows:
        return []
    return ["## SLO classes\n", markdown_table(("scenario", "policy", "class", *CLASS_METRICS), rows)]


def _comparisons(scores: SuiteScores) -> list[str]:
    rows = [
        (
            each.policy,
            each.against,
            str(each.scenarios),
            with_interval(each.iqm),
            with_interval(each.against_iqm),
            _change(each.change),
            with_interval(each.improvement, 2),
        )
        for each in scores.comparisons[: 2 * MOST_ROWS]
    ]
    if not rows:
        return []
    heading = ("policy", "against", "scenarios", "score", "score of the other", "change", "improvement")
    told = (
        "\nChange: of the metric, on the same requests. Improvement: the probability that a run is better.\n"
    )
    return ["## Pairs, on the scenarios that both played\n", markdown_table(heading, rows) + told]


def _not_played(scores: SuiteScores) -> list[str]:
    rows = [
        (name, policy, found.status, found.why)
        for name, entry in scores.entries.items()
        for policy, found in entry.played.items()
        if isinstance(found, NotPlayed)
    ]
    failed = [row for row in rows if row[2] == "failed"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, policy, status, why in rows:
        if status != "failed":
            reasons.setdefault((policy, why), []).append(name)
    lines = [f"- **{policy} failed on {name}**: {why}" for name, policy, _, why in failed]
    lines += [
        f"- {policy} does not apply to {len(names)} of {len(scores.entries)} scenarios: {why}"
        for (policy, why), names in list(reasons.items())[: 2 * MOST_ROWS]
    ]
    return ["## Not played\n", "\n".join(lines) + "\n"] if lines else []


def _change(change: Estimate) -> str:
    return f"{_percent(change.iqm)} ({_percent(change.low)} to {_percent(change.high)})"


def _percent(change: float) -> str:
    return f"{100 * change:+.1f} %" if math.isfinite(change) else "not defined"
