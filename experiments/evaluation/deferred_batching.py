"""A trained scheduler of batch serving against Symphony: bad requests by rate, and goodput."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from servegym.agents.batch_schedulers import make_batch_scheduler
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.costmodels.progress import tracked
from servegym.envs.batch_scenario import BatchScenario
from servegym.envs.deferred_batching.episodes import DeferredBatchingEpisodes
from servegym.envs.sim.batch.simulate import BatchResults
from servegym.envs.workloads.batch_workload import BatchWorkload
from servegym.experiments.evaluation.goodput import estimate_rates, largest_rates
from servegym.experiments.evaluation.statistics import relative_change
from servegym.experiments.run_directory import load_run_config, load_run_policy

REQUESTS = 20_000
"""Of a test workload."""

BAD_SHARE = 0.01
"""The most at the rate that counts as goodput."""

FACTORS = (0.9, 0.95, 1.0, 1.05, 1.1)
"""Rates at which bad requests are counted, of Symphony's goodput."""

Row = tuple[object, ...]

Serve = Callable[[Sequence[BatchWorkload]], list[BatchResults]]


def evaluate_deferred_batching(run_dir: Path, seeds: Sequence[int]) -> tuple[dict[str, Any], list[Row]]:
    """The answer of `servegym evaluate` about a run, and a row of results for each policy, rate and seed.

    Of each policy: `goodput_rps` with its interval, `gain` over Symphony's goodput, paired by seed, and the
    mean `bad_share` at each of `rates_rps`. All get the same requests, as from `servegym goodput`. Where a
    seed has no rate low enough, `reason` says so and there is no gain; with Symphony no `rates_rps` either.
    InputError where all requests of a seed could come at once.
    """
    config = load_run_config(run_dir).scenario
    config = replace(config, workload=replace(config.workload, requests=REQUESTS, seconds=None))
    scenario = BatchScenario(config)
    network, _ = load_run_policy(run_dir)
    serve: dict[str, Serve] = {
        "symphony": _by_scheduler(scenario),
        "symphony eager": _by_scheduler(scenario, condition="eager", drop="timeout"),
        network.name: lambda workloads: side_by_side(network, scenario, workloads),
    }
    return compare(serve, {seed: scenario.traffic.test_workload(seed) for seed in seeds}, scenario.rate_rps)


def compare(
    serve: dict[str, Serve], test_workloads: dict[int, BatchWorkload], guess_rps: float
) -> tuple[dict[str, Any], list[Row]]:
    """What `evaluate_deferred_batching` returns, of policies of which one is "symphony".

    test_workloads: by seed. guess_rps: the rate at which the search for its goodput begins.
    """
    seeds, workloads = list(test_workloads), list(test_workloads.values())
    guesses = np.full(len(seeds), guess_rps)
    goodput, estimates = {}, {}
    for name, of in tracked(serve.items(), "Largest rates", "policies"):
        goodput[name] = _goodput(of, workloads, guesses)
        estimates[name] = estimate_rates(goodput[name], 1 - BAD_SHARE)
        if name == "symphony":
            guesses = np.where(goodput[name] > 0, goodput[name], guesses)
    symphony = goodput["symphony"]
    rates = [float(round(factor * np.mean(symphony))) for factor in FACTORS] if (symphony > 0).all() else []
    rows: list[Row] = [("policy", "rate_rps", "seed", "bad_share")]
    policies = {}
    for name, of in tracked(serve.items(), "At the same rates", "policies"):
        bad = [_bad_shares(of, workloads, np.full(len(seeds), rate)) for rate in rates]
        compared = ((goodput[name] > 0) & (symphony > 0)).all()
        rows += [
            (name, rate, seed, share)
            for rate, shares in zip(rates, bad, strict=True)
            for seed, share in zip(seeds, shares, strict=True)
        ]
        policies[name] = {
            "goodput_rps": estimates[name]._asdict(),
            "gain": relative_change(goodput[name], symphony)._asdict() if compared else None,
            "goodputs_rps": goodput[name].tolist(),
            "bad_share": [float(shares.mean()) for shares in bad],
            "reason": _why_none(goodput[name]),
        }
    return {"requests": REQUESTS, "limit": BAD_SHARE, "rates_rps": rates, "policies": policies}, rows


def side_by_side(
    policy: NetworkPolicy, scenario: BatchScenario, workloads: Sequence[BatchWorkload]
) -> list[BatchResults]:
    """What a network makes of workloads, each in an episode of its own."""
    episodes = DeferredBatchingEpisodes(scenario, len(workloads), max(len(each.model) for each in workloads))
    for episode_id, workload in enumerate(workloads):
        episodes.begin(episode_id, workload)
    while not episodes.finished.all():
        episodes.step(policy.act(episodes.observation, episodes.masks))
    return [episodes.results(episode_id) for episode_id in range(len(workloads))]


def _by_scheduler(scenario: BatchScenario, **parameters: Any) -> Serve:
    scheduler = make_batch_scheduler("symphony", **parameters)
    return lambda workloads: [scenario.simulate(workload, scheduler) for workload in workloads]


def _bad_shares(
    serve: Serve, workloads: Sequence[BatchWorkload], rates: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    closer = [each.scale_rate(rate / each.rate_rps) for each, rate in zip(workloads, rates, strict=True)]
    return np.array([results.bad_share for results in serve(closer)])


def _goodput(
    serve: Serve, workloads: Sequence[BatchWorkload], guesses: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Of each workload, requests/s."""
    return largest_rates(
        lambda rates, which: _bad_shares(serve, [workloads[seed] for seed in which], rates) <= BAD_SHARE,
        guesses,
        most_steps=10,
    )


def _why_none(goodput: npt.NDArray[np.float64]) -> str | None:
    """Of what has no goodput with some seed."""
    if (goodput > 0).all():
        return None
    return (
        f"more than {BAD_SHARE:g} of the requests are bad at every rate tried, with {(goodput == 0).sum()} "
        f"of {len(goodput)} seeds"
    )


def show_deferred_batching(answer: dict[str, Any], console: Console) -> None:
    """The policies as a table, and why some have no goodput."""
    title = f"{answer['scenario']}, {len(answer['seeds'])} seeds of {answer['requests']:,} requests"
    table = Table(title=title)
    table.add_column("policy")
    table.add_column(f"goodput ({answer['limit']:.0%} bad)", justify="right")
    table.add_column("over symphony", justify="right")
    for rate in answer["rates_rps"]:
        table.add_column(f"bad at {rate:,.0f}/s", justify="right")
    for name, policy in answer["policies"].items():
        goodput, gain = policy["goodput_rps"], policy["gain"]
        table.add_row(
            name,
            f"{goodput['iqm']:,.0f} [{goodput['low']:,.0f}, {goodput['high']:,.0f}]",
            f"{gain['iqm']:+.1%} [{gain['low']:+.1%}, {gain['high']:+.1%}]" if gain else "",
            *(f"{share:.2%}" for share in policy["bad_share"]),
        )
    console.print(table)
    for name, policy in answer["policies"].items():
        if policy["reason"]:
            console.print(f"{name}: {policy['reason']}", soft_wrap=True)
