"""How loaded the entries of a suite are, and how far the heuristics differ there, on training traffic only.

    python -m servegym.experiments.benchmarks.suite_spread SUITE [--routers NAME,...] [--schedulers NAME,...]

The loads of suites were chosen by these figures: tests have no part in them. Prints the table of
docs/suites.md. The capacity of a fleet is the most that any heuristic finishes a second, between a fifth and
four fifths of all, when requests come five times as fast; the load is the rate over it.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.suites import load_suite
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.pairs import Pair, applicable_pairs

HURRY = 5.0
FIRST, LAST = 0.2, 0.8
"""How much faster requests come to measure capacity, and which completions are counted. Ours."""

ONE_REPLICA = "round_robin"
"""The router where there is nothing to route."""


def capacity_rps(pairs: Sequence[Pair], workload: Workload) -> float:
    """Requests a second that the best of the pairs finishes when there are always some to serve."""
    hurried = workload.scale_rate(HURRY)
    rates = []
    for pair in pairs:
        finish_s = pair.scenario.simulate(hurried, pair.router).finish_s
        finish_s = np.sort(finish_s[np.isfinite(finish_s)])
        first, last = int(FIRST * len(finish_s)), int(LAST * len(finish_s))
        rates.append((last - first) / (finish_s[last] - finish_s[first]))
    return float(max(rates))


def row(pairs: Sequence[Pair], workload: Workload, metric: str) -> dict[str, object]:
    """`rate_rps`, `load`, the best pair, and the `second`, `median` and `worst` as multiples of it."""
    figures = {pair.name: pair.figure(workload, 0, metric) for pair in pairs}
    order = sorted(figures, key=lambda name: figures[name])
    ratios = [figures[name] / figures[order[0]] for name in order]
    own = [pair for pair in pairs if pair.scheduler is None]
    rate_rps = workload.num_requests / float(workload.arrival_s[-1])
    return {
        "rate_rps": rate_rps,
        "load": rate_rps / capacity_rps(own, workload),
        "best": order[0],
        "best_s": figures[order[0]],
        "second": ratios[min(1, len(ratios) - 1)],
        "median": float(np.median(ratios)),
        "worst": ratios[-1],
    }


def table(suite_name: str, routers: Sequence[str] | None, schedulers: Sequence[str] | None) -> Iterator[str]:
    """The lines of the table, in Markdown; schedulers None: the engines' own. InputError: unknown names."""
    suite = load_suite(suite_name)
    yield "| entry | rate, requests/s | load | best | its figure, s | second | median | worst |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in suite.entries:
        scenario = suite.build(name)
        by = routers if scenario.num_replicas > 1 else [ONE_REPLICA]
        pairs = [
            pair
            for pair in applicable_pairs(scenario, by)
            if pair.scheduler is None or pair.scheduler in (schedulers or ())
        ]
        of = row(pairs, scenario.traffic.training_part(0), suite.metric_of(name))
        yield (
            f"| `{name}` | {of['rate_rps']:.4g} | {of['load']:.2f} | {of['best']} | {of['best_s']:.3g} | "
            f"{of['second']:.3f} | {of['median']:.3f} | {of['worst']:.3g} |"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Loads of a suite's entries, and what heuristics differ by.")
    parser.add_argument("suite", metavar="SUITE")
    for group in ("routers", "schedulers"):
        parser.add_argument(f"--{group}", type=lambda text: text.split(","), metavar="NAME,...")
    options = parser.parse_args(arguments)
    try:
        for line in table(options.suite, options.routers, options.schedulers):
            print(line, flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
