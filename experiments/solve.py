"""`servegym solve`: the optimal batching of one server, and what simple policies cost beside it."""

from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_file import output_file
from servegym.costmodels.progress import tracked
from servegym.envs.dynamic_batching.config import DynamicBatchingConfig
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario
from servegym.experiments.configs import read_config
from servegym.experiments.json_answer import to_json
from servegym.experiments.provenance import versions


@dataclass
class SolveConfig:
    """Schema of `conf/solve.yaml`."""

    scenario: DynamicBatchingConfig = MISSING
    max_queue: int | None = None
    truncation: float = MISSING
    episodes: int = MISSING
    requests: int = MISSING
    seed: int = MISSING
    out: str | None = None

    def __post_init__(self) -> None:
        if self.episodes != MISSING and (self.episodes < 0 or self.episodes == 1):
            raise InputError(f"episodes = {self.episodes}: must be 0, or at least 2 for an error of the mean")
        if self.requests != MISSING and self.requests < 1:
            raise InputError(f"requests = {self.requests}: must be at least 1")
        if self.seed != MISSING and self.seed < 0:
            raise InputError(f"seed = {self.seed}: must be at least 0")


def solve(config: DictConfig) -> dict[str, Any]:
    """The optimum of agents/smdp beside the work-conserving policy, the best static one and the best limit.

    Returns scenario, rate and largest rate; `sizes`, the batch to start when 0, 1, ... requests wait (the
    last for any more); how far the solution is from exact; and by policy its parameter, what it costs exactly
    and, with episodes, when simulated on the same arrivals.
    """
    from servegym.agents import smdp  # compiles, which `--help` must not

    settings = read_config(config, SolveConfig)
    scenario = replace(DynamicBatchingScenario.of_config(settings.scenario), requests=settings.requests)
    found = smdp.solve(scenario, settings.max_queue, truncation=settings.truncation)
    batches = np.arange(scenario.min_batch, scenario.max_batch + 1)
    rates = batches / np.array(scenario.latency_s)[batches - 1]
    tables: dict[str, tuple[int | None, np.ndarray]] = {
        "optimal": (found.control_limit, found.sizes),
        "work_conserving": (None, smdp.greedy(scenario)),
    }
    for name, family in (("control_limit", smdp.control_limit), ("static", smdp.static)):
        if best := smdp.cheapest(scenario, family):
            tables[name] = best
    policies: dict[str, dict[str, Any]] = {
        name: {"parameter": parameter, "exact": _exact(scenario, sizes)}
        for name, (parameter, sizes) in tables.items()
    }
    if settings.episodes > 0:
        for name in tracked(policies, "Simulating", "policies"):
            policy = smdp.BatchTablePolicy(name, tables[name][1], scenario)
            played = smdp.simulate_batching(policy, scenario, settings.episodes, settings.seed)
            policies[name]["simulated"] = asdict(played)
    answer = {
        "scenario": scenario.name,
        "rate_rps": scenario.rate_rps,
        "largest_rate_rps": float(rates.max()),
        "response_weight": scenario.response_weight,
        "power_weight": scenario.power_weight,
        "cost": found.cost,
        "control_limit": found.control_limit,
        "sizes": found.sizes.tolist(),
        "solution": {
            "usual_queue": found.usual_queue,
            "max_queue": found.max_queue,
            "iterations": found.iterations,
            "span": found.span,
            "tail_share": found.tail_share,
            "doubling_change": found.doubling_change,
        },
        "policies": policies,
        "versions": versions(),
    }
    if settings.out is not None:
        with output_file(Path(settings.out)) as file:
            file.write(to_json(answer).encode() + b"\n")
    return answer


def show(answer: dict[str, Any]) -> None:
    """Prints policies as a table, and the optimal one in words."""
    load = answer["rate_rps"] / answer["largest_rate_rps"]
    table = Table(
        title=f"{answer['scenario']}: {answer['rate_rps']:,.0f} requests/s, {load:.0%} of the largest rate"
    )
    table.add_column("policy")
    for column in ("cost", "of optimal", "response ms", "power W", "mean batch", "simulated, ± 2 errors"):
        table.add_column(column, justify="right")
    for name, policy in answer["policies"].items():
        exact, played = policy["exact"], policy.get("simulated")
        parameter = "" if policy["parameter"] is None or name == "optimal" else f" {policy['parameter']}"
        table.add_row(
            name.replace("_", " ") + parameter,
            f"{exact['cost']:.5g}",
            f"{exact['cost'] / answer['cost']:.4f}",
            f"{1e3 * exact['response_s']:.4g}",
            f"{exact['power_w']:.4g}",
            f"{exact['mean_batch']:.3g}",
            f"{played['cost']:.5g} ± {2 * played['cost_error']:.1g}" if played else "",
        )
    Console(width=110).print(table)
    console, solution = Console(soft_wrap=True, highlight=False), answer["solution"]
    usual = answer["sizes"][: solution["usual_queue"] + 1]
    console.print(f"Optimal, by requests waiting: {in_words(usual)}; more are rare.")
    console.print(
        f"Solved in {solution['iterations']} sweeps with up to {solution['max_queue']} waiting, which "
        f"{solution['tail_share']:.2g} of the decisions exceed; twice as many change the cost by "
        f"{solution['doubling_change']:.1g} of itself."
    )


def in_words(sizes: list[int]) -> str:
    """A table of batch sizes in ranges of equal rules.

    >>> in_words([0, 0, 0, 3, 4, 4, 4])
    '0-2 wait, 3-4 all, 5-6 batches of 4'
    """
    rules = [
        (queue, "wait" if size == 0 else "all" if size == queue else f"batches of {size}")
        for queue, size in enumerate(sizes)
    ]
    ranges = []
    for rule, group in groupby(rules, key=lambda each: each[1]):
        queues = [queue for queue, _ in group]
        ranges.append(f"{queues[0]}{f'-{queues[-1]}' if len(queues) > 1 else ''} {rule}")
    return ", ".join(ranges)


def _exact(scenario: DynamicBatchingScenario, sizes: np.ndarray) -> dict[str, float]:
    from servegym.agents import smdp

    found = smdp.evaluate(scenario, sizes)
    return {
        "cost": found.cost,
        "response_s": found.response_s,
        "power_w": found.power_w,
        "mean_batch": found.mean_batch,
        "utilisation": found.utilisation,
    }
