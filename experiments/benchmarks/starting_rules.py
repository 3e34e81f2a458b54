"""What the rules make of a suite that learned schedulers begin with, and how much a small budget does alone.

    python -m servegym.experiments.benchmarks.starting_rules SUITE [--seeds N]

SUITE is batching or two_level. Prints mean and P99 latency as multiples of those of first come, first served
(of JSQ before such engines in two_level): with a quarter of the token budget and nothing else changed, which
is how far tuning alone goes, and under the rule of agents/batching.py or agents/two_level.py. What a network
adds to its rule is the difference to its row in experiments/results.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from servegym.agents.batching import BoundedShortestFirst
from servegym.agents.evaluation import route_and_schedule, schedule
from servegym.agents.two_level import LeastMarginalLatency
from servegym.costmodels.errors import InputError
from servegym.envs.metrics import summarise
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.suites import load_suite
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.contenders import contender

BUDGET_SHARE = 0.25
"""Of the engine's own token budget: what the rules give prefills beside decodes."""

METRICS = ("mean_latency_s", "p99_latency_s")


def _figures(results: Sequence[Results], scenario: Scenario, workloads: Sequence[Workload]) -> np.ndarray:
    """Means over the workloads of METRICS, (2,)."""
    rows = [summarise(each, scenario.slo_limits(of)) for each, of in zip(results, workloads, strict=True)]
    means: np.ndarray = np.array([[row[metric] for metric in METRICS] for row in rows]).mean(axis=0)
    return means


def _smaller_budget(scenario: Scenario) -> Scenario:
    engine = scenario.config.engine
    budget = max(engine.max_num_seqs, int(BUDGET_SHARE * engine.max_num_batched_tokens))
    return Scenario(replace(scenario.config, engine=replace(engine, max_num_batched_tokens=budget)))


def table(suite_name: str, num_seeds: int) -> Iterator[str]:
    """The lines of the table, in Markdown. InputError for a suite of another kind."""
    if suite_name not in ("batching", "two_level"):
        raise InputError(
            f"suite = {suite_name}: must be batching or two_level, whose networks begin with a rule"
        )
    alone = suite_name == "batching"
    base = "fcfs" if alone else "jsq"
    suite, seeds = load_suite(suite_name), list(range(num_seeds))
    yield f"| entry | {base}: mean, P99 in s | quarter of the budget: mean | P99 | the rule: mean | P99 |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name in suite.entries:
        scenario = suite.build(name)
        smaller = _smaller_budget(scenario)
        workloads = [scenario.traffic.test_workload(seed) for seed in seeds]
        kind = "scheduler" if alone else "router"
        first = _figures(contender(base, kind, scenario).serve(workloads, seeds), scenario, workloads)
        tuned = _figures(contender(base, kind, smaller).serve(workloads, seeds), smaller, workloads)
        ruled = (
            schedule(BoundedShortestFirst(), scenario, workloads)
            if alone
            else route_and_schedule(LeastMarginalLatency(), scenario, workloads)
        )
        shares = [*(tuned / first), *(_figures(ruled, scenario, workloads) / first)]
        cells = " | ".join(f"{share:.3f}" for share in shares)
        yield f"| `{name}` | {first[0]:.3g}, {first[1]:.3g} | {cells} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="What the rules do that learned schedulers begin with.")
    parser.add_argument("suite", metavar="SUITE")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    options = parser.parse_args(arguments)
    try:
        for line in table(options.suite, options.seeds):
            print(line, flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
