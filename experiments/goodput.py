"""`servegym goodput`: the largest rate at which a policy keeps what the requests were promised."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from omegaconf import MISSING, DictConfig
from rich.console import Console

from servegym.agents.batch_schedulers import BATCH_SCHEDULERS
from servegym.costmodels.errors import InputError
from servegym.envs.batch_scenario import BatchScenario
from servegym.envs.batch_scenario.config import BatchScenarioConfig
from servegym.envs.metrics import attains_slo
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.workloads import Workload
from servegym.experiments.answer_folder import check_answer_folder, write_answer_folder
from servegym.experiments.configs import build_batch_scheduler, read_config, read_seeds
from servegym.experiments.evaluation.contenders import contender, kind_of
from servegym.experiments.evaluation.goodput import (
    Attainment,
    attainment_at_rates,
    batch_attainment,
    find_goodput,
)

ANSWER_FILE = "goodput.json"

MOST_HALVINGS = 10
"""Of the scenario's rate, until a policy is given up."""


@dataclass
class GoodputConfig:
    """Schema of `conf/goodput.yaml`."""

    scenario: Any = MISSING  # of batch serving or of LLM fleets
    policy: Any = None  # name and parameters of a batch scheduler, or as `servegym evaluate` takes them
    bad_share: float = MISSING
    requests: int | None = None
    seeds: Any = MISSING  # a number of seeds, or a list of them
    tolerance: float = MISSING
    out: str | None = None

    def __post_init__(self) -> None:
        if self.bad_share != MISSING and not 0 <= self.bad_share < 1:
            raise InputError(f"bad_share = {self.bad_share}: must be at least 0 and below 1")
        if self.requests is not None and self.requests < 2:
            raise InputError(f"requests = {self.requests}: must be null, or at least 2")
        if self.tolerance != MISSING and not 0 < self.tolerance < 1:
            raise InputError(f"tolerance = {self.tolerance}: must be above 0 and below 1")


class Served(NamedTuple):
    """A scenario under a policy: what share keeps its limits by rate, where to begin, requests of a run."""

    scenario: str
    attainment: Attainment
    first_rps: float
    num_requests: int


def goodput(config: DictConfig) -> dict[str, Any]:
    """Searches the largest rate with at most `bad_share` bad requests, with every seed.

    Returns scenario, policy as configured, limit (`bad_share` as configured), seeds, requests of a run;
    goodput_rps, the interquartile mean over the seeds, and interval, its 95 % bootstrap interval; rates_rps
    by seed; bad_share, the mean of the seeds at their rates; reason: why a seed has no rate, else null. With
    `out` the same is written there.
    InputError for what is not known, does not fit the scenario, or has no limit.
    """
    settings = read_config(config, GoodputConfig)
    check_answer_folder(settings.out, ANSWER_FILE)
    seeds = read_seeds(settings.seeds)
    served = _served(settings)
    found = find_goodput(
        served.attainment,
        guess=served.first_rps,
        seeds=seeds,
        share=1 - settings.bad_share,
        tolerance=settings.tolerance,
        most_steps=MOST_HALVINGS,
    )
    rate = found.estimate
    kept = found.attained[found.rates > 0]
    reason = None
    if len(kept) < len(seeds):
        reason = (
            f"more than {settings.bad_share:g} of the requests are bad at every rate tried, down to "
            f"{served.first_rps / 2**MOST_HALVINGS:.3g} requests/s, with {len(seeds) - len(kept)} of "
            f"{len(seeds)} seeds"
        )
    answer = {
        "scenario": served.scenario,
        "policy": settings.policy,
        "limit": settings.bad_share,
        "seeds": seeds,
        "requests": served.num_requests,
        "goodput_rps": rate.iqm,
        "interval": [rate.low, rate.high],
        "rates_rps": found.rates.tolist(),
        "bad_share": round(1 - float(kept.mean()), 12) if len(kept) else None,
        "reason": reason,
    }
    write_answer_folder(settings, ANSWER_FILE, "goodput", answer)
    return answer


def show(answer: dict[str, Any]) -> None:
    """Prints the goodput in a line, and why there is none in another."""
    console = Console(soft_wrap=True, highlight=False)
    policy = answer["policy"]
    name = policy if isinstance(policy, str) else policy["name"]
    low, high = answer["interval"]
    console.print(
        f"{name} on {answer['scenario']}: {answer['goodput_rps']:,.5g} requests/s [{low:,.5g}, {high:,.5g}] "
        f"with at most {answer['limit']:.2%} bad; {len(answer['seeds'])} seeds of {answer['requests']:,} "
        "requests"
    )
    if answer["reason"] is not None:
        console.print(answer["reason"])


def _served(settings: GoodputConfig) -> Served:
    if isinstance(settings.scenario, BatchScenarioConfig):
        return _batches(settings.scenario, settings.policy, settings.requests)
    if isinstance(settings.scenario, ScenarioConfig):
        return _llm_fleet(settings.scenario, settings.policy, settings.requests)
    raise InputError(
        f"scenario = {settings.scenario.name}: has no limits to keep; must be of batch serving or of LLM "
        "fleets"
    )


def _batches(config: BatchScenarioConfig, policy: object, requests: int | None) -> Served:
    if not isinstance(policy, dict):
        raise InputError(
            f"policy: {policy or 'no choice made'}: must be one of {', '.join(BATCH_SCHEDULERS)}, as "
            f"{config.name} is of batch serving"
        )
    if requests is not None:
        config = replace(config, workload=replace(config.workload, requests=requests, seconds=None))
    scenario = BatchScenario(config)
    attainment = batch_attainment(scenario, build_batch_scheduler(policy))
    return Served(scenario.name, attainment, scenario.rate_rps, scenario.traffic.num_test_requests)


def _llm_fleet(config: ScenarioConfig, policy: object, requests: int | None) -> Served:
    scenario = Scenario(config)
    try:
        given = str(policy["name"] if isinstance(policy, dict) else policy or "no choice made")
        served_by = contender(given, kind_of(given), scenario)
    except InputError as error:
        raise InputError(str(error).replace("policies:", "policy:", 1)) from None

    def workload(seed: int) -> Workload:
        whole = scenario.traffic.test_workload(seed)
        if requests is not None and requests > whole.num_requests:
            raise InputError(
                f"requests = {requests}: must be at most {whole.num_requests}, all there are with seed {seed}"
            )
        return whole.take(slice(requests))

    def attained(workload: Workload, seed: int) -> float:
        (results,) = served_by.serve([workload], [seed])
        return float(attains_slo(results, scenario.slo_limits(workload)).mean())

    num_requests = workload(0).num_requests
    return Served(
        scenario.name, attainment_at_rates(workload, attained), config.workload.rate_rps, num_requests
    )
