"""`servegym evaluate suite=NAME`: every policy on every scenario of a suite (docs/evaluation.md)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from servegym.costmodels.output_folder import check_replaceable
from servegym.costmodels.progress import Advance, progress
from servegym.envs.suites import Suite
from servegym.experiments.evaluation.suite_files import FILES, write_suite
from servegym.experiments.evaluation.suite_report import tally, with_interval
from servegym.experiments.evaluation.suite_runs import Entrant, NotPlayed, entrants_of, play
from servegym.experiments.evaluation.suite_scores import PlayedEntry, SuiteScores, bound_of
from servegym.experiments.provenance import provenance


def evaluate_suite(
    suite: Suite, names: Sequence[str] | None, seeds: list[int], out: Path, command: str
) -> dict[str, Any]:
    """Plays every entry of a suite with every policy, and writes FILES to `out`.

    names: of policies, None for all heuristics; these are added to learned policies given alone. Returns
    suite, version, seeds, of each policy its kind, score with interval and on how many scenarios, of each
    scenario its best heuristic, bound and every policy's mean, the comparisons, who did not play and why, and
    `out`. InputError before the first simulation for policies that cannot be read.
    """
    check_replaceable(out, FILES)
    entrants = entrants_of(names, suite.environment)
    entries, sources = {}, {}
    with progress("", len(suite.entries) * len(entrants), "policies") as advance:
        for name in suite.entries:
            advance.doing(name)
            entries[name], sources[name] = _play_entry(suite, name, entrants, seeds, advance)
    scores = SuiteScores(seeds, entrants, entries)
    origin = {
        "suite": suite.name,
        "version": suite.version,
        "environment": suite.environment,
        "command": command,
        "seeds": seeds,
        "policies": {each.name: list(each.runs) for each in entrants if each.is_learned},
        "workload_sources": sources,
        **provenance(),
    }
    write_suite(out, suite, scores, origin, command)
    return {**_answer(suite, scores), "out": str(out)}


def _play_entry(
    suite: Suite, name: str, entrants: list[Entrant], seeds: list[int], advance: Advance
) -> tuple[PlayedEntry, str]:
    """One scenario, and where its requests come from."""
    scenario, metric = suite.build(name), suite.metric_of(name)
    workloads = [scenario.traffic.test_workload(seed) for seed in seeds]
    played = {}
    for entrant in entrants:
        played[entrant.name] = play(entrant, scenario, workloads, seeds, metric)
        advance()
    return PlayedEntry(metric, played, bound_of(scenario, workloads, metric)), scenario.traffic.source


def _answer(suite: Suite, scores: SuiteScores) -> dict[str, Any]:
    kinds = {each.name: "learned" if each.is_learned else "heuristic" for each in scores.entrants}
    return {
        "suite": suite.name,
        "version": suite.version,
        "seeds": scores.seeds,
        "policies": {
            name: {
                "kind": kinds[name],
                "scenarios": len(scores.played_by(name)),
                **tally(scores, name)[0],
                **scores.aggregates[name]._asdict(),
            }
            for name in scores.ranking
        },
        "scenarios": {
            name: {
                "metric": entry.metric,
                "best_heuristic": scores.best[name],
                "bound": None if isinstance(entry.bound, str) else float(entry.bound.mean()),
                "means": {policy: found.mean for policy, found in scores.standings[name].items()},
            }
            for name, entry in scores.entries.items()
        },
        "comparisons": [
            {
                "policy": each.policy,
                "against": each.against,
                "scenarios": each.scenarios,
                "change": each.change._asdict(),
                "improvement": each.improvement._asdict(),
            }
            for each in scores.comparisons
        ],
        "not_played": [
            {"scenario": name, "policy": policy, "status": found.status, "why": found.why}
            for name, entry in scores.entries.items()
            for policy, found in entry.played.items()
            if isinstance(found, NotPlayed)
        ],
    }


def show_suite(answer: dict[str, Any], console: Console, most: int = 15) -> None:
    """Prints the aggregates of the best `most` policies and of learned ones, failures, and where all is."""
    table = Table(
        title=f"Suite {answer['suite']}, version {answer['version']}, {len(answer['seeds'])} seeds",
        caption="Score: the metric over the best heuristic's; interquartile mean with 95 % interval",
        box=box.SIMPLE,
    )
    table.add_column("policy", no_wrap=True)
    for heading in ("score", "scenarios", "better, level, worse"):
        table.add_column(heading, justify="right")
    for place, (name, found) in enumerate(answer["policies"].items()):
        if place >= most and found["kind"] == "heuristic":
            continue
        level = found["undecided"] + found["best"]
        table.add_row(
            name,
            with_interval((found["iqm"], found["low"], found["high"])),
            f"{found['scenarios']} of {len(answer['scenarios'])}",
            f"{found['better']}, {level}, {found['worse']}",
        )
    console.print(table)
    for each in answer["not_played"]:
        if each["status"] == "failed":
            console.print(f"{each['policy']} failed on {each['scenario']}: {each['why']}", soft_wrap=True)
    missing = sum(each["status"] != "failed" for each in answer["not_played"])
    if missing:
        console.print(f"{missing} times a policy does not apply to a scenario: not_played.csv says why")
    console.print(f"Results: {answer['out']}/summary.md", soft_wrap=True)
