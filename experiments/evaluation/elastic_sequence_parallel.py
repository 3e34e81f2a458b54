"""A trained agent of elastic sequence parallelism against LoongServe's manager and against rules: goodput."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from servegym.agents.elastic_managers import make_elastic_manager
from servegym.agents.elastic_sequence_parallel import FirstComeFirstServed, GainAndLoss, ShortestFirst
from servegym.agents.policy import Policy
from servegym.costmodels.progress import tracked
from servegym.envs.elastic_metrics import Served, in_time, of_lines
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.elastic_scenario.config import ElasticScenarioConfig
from servegym.envs.elastic_sequence_parallel.episodes import ElasticSequenceParallelEpisodes
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.goodput import largest_rates
from servegym.experiments.evaluation.statistics import estimate, relative_change
from servegym.experiments.run_directory import load_run_config, load_run_policy

MANAGER = "loongserve"
"""Whom the others are measured against."""

FACTORS = (0.9, 1.0, 1.1)
"""Rates at which strains are measured, of the manager's goodput."""

MOST_STEPS = 5
"""Doublings or halvings of a first rate until a search gives up: the scenario's, and then the manager's."""

Row = tuple[object, ...]

Serve = Callable[[Sequence[Workload]], Sequence[Served]]

Strain = Callable[[Served, ElasticScenario], float]
"""How much of what a limit allows is used up: at most 1 keeps it."""

Rates = npt.NDArray[np.float64]


def of_means(served: Served, scenario: ElasticScenario) -> float:
    """The largest of the mean normalised latencies over their lines (LoongServe, Fig. 10)."""
    return max(of_lines(served, scenario).values())


def of_late(served: Served, scenario: ElasticScenario) -> float:
    """The share of requests that are late over the share that may be (LoongServe, Fig. 12)."""
    late, allowed = 1 - float(in_time(served, scenario).mean()), 1 - scenario.slo.attainment
    return late / allowed if allowed > 0 else math.inf if late > 0 else 0.0


def evaluate_elastic_sequence_parallel(
    run_dir: Path, seeds: Sequence[int], other: ElasticScenarioConfig | None = None
) -> tuple[dict[str, Any], list[Row]]:
    """The answer of `servegym evaluate` about a run, and a row of results for each limit, policy, rate, seed.

    other: a scenario in place of the one that it was trained on. limits: "lines" where the scenario has any,
    and "attainment"; of each what `compare` finds.
    """
    scenario = ElasticScenario(other or load_run_config(run_dir).scenario)
    network, _ = load_run_policy(run_dir)
    policies = (FirstComeFirstServed(), ShortestFirst(), GainAndLoss(), network)
    serve = {MANAGER: _by_manager(scenario), **{policy.name: _by(policy, scenario) for policy in policies}}
    workloads = {seed: scenario.traffic.test_workload(seed) for seed in seeds}
    has_lines = any(line is not None for line in _lines(scenario))
    limits: dict[str, Strain] = {"lines": of_means} if has_lines else {}
    limits["attainment"] = of_late
    found = {name: compare(serve, workloads, scenario, strain) for name, strain in limits.items()}
    rows: list[Row] = [("limit", "policy", "rate_rps", "seed", "strain")]
    for name, (_, measured) in found.items():
        rows += [(name, *row) for row in measured]
    answer = {"requests": scenario.config.workload.requests}
    return {**answer, "limits": {name: compared for name, (compared, _) in found.items()}}, rows


def compare(
    serve: dict[str, Serve], test_workloads: dict[int, Workload], scenario: ElasticScenario, strain: Strain
) -> tuple[dict[str, Any], list[Row]]:
    """Policies, of which MANAGER is the first, on the same requests: (policy, rate, seed, strain) are rows.

    Of each of `policies`: `goodputs_rps`, by seed the largest rate with a strain of at most 1; `goodput_rps`,
    their interquartile mean with its interval; `gain` over the manager's, paired; `strain`, its mean at each
    of `rates_rps`. Where a seed's limit is kept at no rate tried, or at all, `reason` says so, and there is
    neither a gain nor, with all, a goodput; with the manager no `rates_rps` either.
    """
    seeds, workloads = list(test_workloads), list(test_workloads.values())

    def strains(of: Serve, rates: Rates, which: npt.NDArray[np.int64]) -> Rates:
        closer = [
            workloads[seed].scale_rate(rate / workloads[seed].rate_rps)
            for rate, seed in zip(rates, which, strict=True)
        ]
        return np.array([strain(served, scenario) for served in of(closer)])

    def kept(of: Serve, rates: Rates, which: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return strains(of, rates, which) <= 1

    guesses = np.full(len(seeds), scenario.rate_rps)
    goodput: dict[str, Rates] = {}
    for name, of in tracked(serve.items(), "Largest rates", "policies"):
        keeps = functools.partial(kept, of)
        goodput[name] = largest_rates(keeps, guesses, most_steps=MOST_STEPS)
        if name == MANAGER:
            guesses = np.where(_is_found(goodput[name]), goodput[name], guesses)
    managers = goodput[MANAGER]
    rates = [float(factor * np.mean(managers)) for factor in FACTORS] if _is_found(managers).all() else []
    rows: list[Row] = []
    policies = {}
    for name, of in tracked(serve.items(), "At the same rates", "policies"):
        at_rates = [strains(of, np.full(len(seeds), rate), np.arange(len(seeds))) for rate in rates]
        rows += [
            (name, rate, seed, float(value))
            for rate, values in zip(rates, at_rates, strict=True)
            for seed, value in zip(seeds, values, strict=True)
        ]
        found = goodput[name]
        compared = (_is_found(found) & _is_found(managers)).all()
        policies[name] = {
            "goodput_rps": None if np.isinf(found).any() else estimate(found)._asdict(),
            "gain": relative_change(found, managers)._asdict() if compared else None,
            "goodputs_rps": [rate if math.isfinite(rate) else None for rate in found.tolist()],
            "strain": [float(values.mean()) for values in at_rates],
            "reason": _why_none(found),
        }
    return {"rates_rps": rates, "policies": policies}, rows


def side_by_side(
    policy: Policy, scenario: ElasticScenario, workloads: Sequence[Workload]
) -> Sequence[Served]:
    """What a policy makes of workloads, each in an episode of its own."""
    most = max(each.num_requests for each in workloads)
    episodes = ElasticSequenceParallelEpisodes(scenario, len(workloads), most)
    policy.reset(len(workloads), 0)
    for episode_id, workload in enumerate(workloads):
        episodes.begin(episode_id, workload)
    while not episodes.finished.all():
        episodes.step(policy.act(episodes.observation))
    return [episodes.results(episode_id) for episode_id in range(len(workloads))]


def _by(policy: Policy, scenario: ElasticScenario) -> Serve:
    return lambda workloads: side_by_side(policy, scenario, workloads)


def _by_manager(scenario: ElasticScenario) -> Serve:
    told = scenario.manager
    manager = make_elastic_manager(
        MANAGER,
        max_requests=told.max_requests,
        out_of_order=told.out_of_order,
        decoding_s=told.decoding_s,
    )
    return lambda workloads: [scenario.simulate(workload, manager) for workload in workloads]


def _lines(scenario: ElasticScenario) -> tuple[float | None, ...]:
    return scenario.slo.total_s, scenario.slo.input_s, scenario.slo.output_s


def _is_found(goodput: Rates) -> npt.NDArray[np.bool_]:
    return (goodput > 0) & np.isfinite(goodput)


def _why_none(goodput: Rates) -> str | None:
    """Of what has no goodput with some seed."""
    never, always = int((goodput == 0).sum()), int(np.isinf(goodput).sum())
    if not never + always:
        return None
    at = "all rates tried" if always else "no rate tried"
    return f"kept at {at}, with {always or never} of {len(goodput)} seeds"


def show_elastic_sequence_parallel(answer: dict[str, Any], console: Console) -> None:
    """For each limit the policies as a table, and why some have no goodput."""
    for limit, compared in answer["limits"].items():
        _show(limit, compared, answer, console)


def _show(limit: str, compared: dict[str, Any], answer: dict[str, Any], console: Console) -> None:
    seeds = f"{len(answer['seeds'])} seeds of {answer['requests']:,} requests"
    table = Table(title=f"{answer['scenario']}, {limit}, {seeds}")
    table.add_column("policy")
    for column in ("requests/s", f"over {MANAGER}"):
        table.add_column(column, justify="right")
    for rate in compared["rates_rps"]:
        table.add_column(f"strain at {rate:.3g}", justify="right")
    for name, policy in compared["policies"].items():
        goodput, gain = policy["goodput_rps"], policy["gain"]
        table.add_row(
            name,
            f"{goodput['iqm']:.3g} [{goodput['low']:.3g}, {goodput['high']:.3g}]" if goodput else "",
            f"{gain['iqm']:+.1%} [{gain['low']:+.1%}, {gain['high']:+.1%}]" if gain else "",
            *(f"{value:.2f}" for value in policy["strain"]),
        )
    console.print(table)
    for name, policy in compared["policies"].items():
        if policy["reason"]:
            console.print(f"{name}, {limit}: {policy['reason']}", soft_wrap=True)
