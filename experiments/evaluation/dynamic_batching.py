"""A trained batching server against the optimum and simple policies: exactly, and on the same arrivals."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from servegym.agents import smdp
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.costmodels.progress import tracked
from servegym.envs.dynamic_batching.observation import FEATURES, QUEUE
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario
from servegym.envs.dynamic_batching.stream import poisson_arrivals
from servegym.experiments.evaluation.statistics import estimate, relative_change
from servegym.experiments.run_directory import load_run_config, load_run_policy

REQUESTS = 20_000
"""Of a test episode, long enough for its ends not to matter."""

QUEUES = 4
"""A network is asked about queues of up to so many times the largest batch; the last stands for any more."""

_TEST = 2**32 - 1  # spawn key of test arrivals, beyond any number of training episodes

Row = tuple[object, ...]


def evaluate_dynamic_batching(run_dir: Path, seeds: Sequence[int]) -> tuple[dict[str, Any], list[Row]]:
    """The answer of `servegym evaluate` about a run, and a row of results for each policy and seed.

    Of each policy: parameter, `exact` (agents/smdp/evaluate.py), and simulated on one test episode a seed,
    the same for all: `cost` with its interval, and `excess` over the optimal policy's, paired by seed.
    """
    scenario = replace(
        DynamicBatchingScenario.of_config(load_run_config(run_dir).scenario), requests=REQUESTS
    )
    network, _ = load_run_policy(run_dir)
    found = smdp.solve(scenario)
    tables: dict[str, tuple[int | None, np.ndarray]] = {
        "optimal": (found.control_limit, found.sizes),
        network.name: (None, table_of(network, scenario)),
        "work_conserving": (None, smdp.greedy(scenario)),
    }
    for name, family in (("control_limit", smdp.control_limit), ("static", smdp.static)):
        if best := smdp.cheapest(scenario, family):
            tables[name] = best
    arrivals = [
        poisson_arrivals(scenario, np.random.SeedSequence(seed, spawn_key=(_TEST,))) for seed in seeds
    ]
    costs, policies = {}, {}
    for name, (parameter, sizes) in tracked(tables.items(), "Playing", "policies"):
        act = network.act if name == network.name else _by_table(name, sizes, scenario)
        costs[name] = np.array([played["cost"] for played in smdp.play(act, scenario, arrivals)])
        exact = smdp.evaluate(scenario, sizes)
        policies[name] = {
            "parameter": parameter,
            "exact": {"cost": exact.cost, "response_s": exact.response_s, "power_w": exact.power_w},
            "exact_excess": exact.cost / found.exact.cost - 1,
            "cost": estimate(costs[name])._asdict(),
            "excess": relative_change(costs[name], costs["optimal"])._asdict(),
        }
    answer = {"requests": REQUESTS, "sizes": tables[network.name][1].tolist(), "policies": policies}
    rows: list[Row] = [("policy", "seed", "cost")]
    rows += [(name, seed, cost) for name in costs for seed, cost in zip(seeds, costs[name], strict=True)]
    return answer, rows


def table_of(network: NetworkPolicy, scenario: DynamicBatchingScenario) -> np.ndarray:
    """The batch that a network starts when 0, 1, ... requests wait and more will come, 0 to wait."""
    queue = np.arange(QUEUES * scenario.max_batch + 1)
    seen = np.zeros((len(queue), FEATURES), np.float32)
    seen[:, QUEUE] = queue
    sizes = np.arange(scenario.max_batch + 1)
    legal = (sizes <= queue[:, None]) & ((sizes == 0) | (sizes >= scenario.min_batch))
    return network.act(seen, legal)


def _by_table(name: str, sizes: np.ndarray, scenario: DynamicBatchingScenario) -> smdp.Act:
    policy = smdp.BatchTablePolicy(name, sizes, scenario)
    return lambda observation, _: policy.act(observation)


def show_dynamic_batching(answer: dict[str, Any], console: Console) -> None:
    """The policies as a table."""
    title = f"{answer['scenario']}, {len(answer['seeds'])} seeds of {answer['requests']:,} requests"
    table = Table(title=title)
    table.add_column("policy")
    for column in ("exact cost", "over optimal", "simulated cost", "over optimal", "response ms", "power W"):
        table.add_column(column, justify="right")
    for name, policy in answer["policies"].items():
        exact, cost, excess = policy["exact"], policy["cost"], policy["excess"]
        table.add_row(
            name.replace("_", " ") + ("" if policy["parameter"] is None else f" {policy['parameter']}"),
            f"{exact['cost']:.5g}",
            f"{policy['exact_excess']:+.2%}",
            f"{cost['iqm']:.5g} [{cost['low']:.5g}, {cost['high']:.5g}]",
            f"{excess['iqm']:+.2%} [{excess['low']:+.2%}, {excess['high']:+.2%}]",
            f"{1e3 * exact['response_s']:.4g}",
            f"{exact['power_w']:.4g}",
        )
    console.print(table)
