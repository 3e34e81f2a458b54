"""The largest rates at which systems keep the lines that LoongServe was measured by.

Those of its Fig. 10 and 11 (Wu et al., SOSP 2024), by the names of envs/elastic_metrics.py: total_s, input_s,
output_s. That of its Fig. 12, attainment: a share of the requests keep their limits of TTFT and TPOT."""

import functools
from collections.abc import Callable, Sequence

from servegym.agents.elastic_systems import ElasticSystem
from servegym.envs.elastic_metrics import LINES, in_time, of_lines
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.goodput import MOST_STEPS, TOLERANCE, largest_rate

ATTAINMENT = "attainment"


def limits_of(scenario: ElasticScenario) -> dict[str, float]:
    """The limit of each line that a scenario has, by name: seconds a token, or the share of the requests."""
    given = {name: getattr(scenario.slo, name) for name in (*LINES, ATTAINMENT)}
    return {name: limit for name, limit in given.items() if limit is not None}


def kept(scenario: ElasticScenario, system: ElasticSystem, workload: Workload) -> dict[str, bool]:
    """Which lines of the scenario a system keeps that serves the workload."""
    served = system.serve(scenario, workload)
    lines = {name: mean <= 1 for name, mean in of_lines(served, scenario).items()}
    share = float(in_time(served, scenario).mean())
    return {**lines, ATTAINMENT: share >= scenario.slo.attainment}


def largest_rates(
    scenario: ElasticScenario,
    system: ElasticSystem,
    of_rate: Callable[[float], Workload],
    lines: Sequence[str],
    guess: float,
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
) -> dict[str, float]:
    """The largest rate at which each of the lines is kept, as `largest_rate`.

    of_rate: the requests of a rate. What is simulated for one line serves the others too.
    """
    at_rate = functools.cache(lambda rate: kept(scenario, system, of_rate(rate)))

    def one(line: str) -> float:
        return largest_rate(lambda rate: at_rate(rate)[line], guess, tolerance, most_steps)

    return {line: one(line) for line in lines}
