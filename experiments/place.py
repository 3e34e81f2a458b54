"""`servegym place`: which replicas to make of a number of GPUs, for the most goodput per GPU."""

from dataclasses import dataclass, replace
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.costmodels.errors import InputError
from servegym.costmodels.progress import tracked
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.scenario.fleet_plan import MOST_REPLICAS, fleet_plan
from servegym.envs.sim.llm.cluster.plan import Member
from servegym.experiments.configs import read_config, read_seeds
from servegym.experiments.evaluate import TABLE_WIDTH
from servegym.experiments.evaluation.goodput import Demand
from servegym.experiments.placement.phases import PhaseGoodputs, Search, phase_goodputs
from servegym.experiments.placement.search import Candidate, best, placements, simulated


@dataclass
class PlaceConfig:
    """Schema of `conf/place.yaml`."""

    scenario: ScenarioConfig = MISSING
    gpus: int = MISSING
    tensor_parallel: list[int] | None = None
    share: float = MISSING
    seeds: Any = MISSING  # a number of seeds, or a list of them

    def __post_init__(self) -> None:
        if self.gpus != MISSING and not 1 <= self.gpus <= MOST_REPLICAS:
            raise InputError(f"gpus = {self.gpus}: must be from 1 to {MOST_REPLICAS}")
        degrees = self.tensor_parallel
        if degrees is not None and (not degrees or min(degrees) < 1 or len(set(degrees)) < len(degrees)):
            raise InputError(f"tensor_parallel = {degrees}: must be null, or different degrees of at least 1")


def place(config: DictConfig) -> dict[str, Any]:
    """Searches placements, as experiments/placement/search.py says.

    Returns scenario, gpus, share, seeds; degrees: the goodput of each phase by tensor-parallel degree, or why
    a degree was left out; placements: each with its goodput, best first; best: the key by which a scenario
    has the first of them. InputError where nothing fits or keeps the limits.
    """
    settings = read_config(config, PlaceConfig)
    seeds = read_seeds(settings.seeds)
    base = _one_replica_each(settings.scenario)
    members, left_out = _members(base, settings)
    traffic = Scenario(_with_degree(base, min(members)))
    demand = Demand(traffic.traffic.test_workload, traffic.slo_limits)
    search = Search(seeds, settings.share, settings.scenario.workload.rate_rps)
    phases: dict[int, PhaseGoodputs] = {}
    for degree in tracked(list(members), "One replica", "degrees"):
        phases[degree] = phase_goodputs(members[degree], demand, search)
    candidates = [
        simulated(placement, members.__getitem__, traffic.plan, demand, search)
        for placement in tracked(list(placements(settings.gpus, phases)), "Whole fleets", "placements")
    ]
    chosen = best(candidates)
    candidates.sort(key=lambda each: -each.rps_per_gpu)
    return {
        "scenario": traffic.name,
        "workload_source": traffic.traffic.source,
        "gpus": settings.gpus,
        "share": settings.share,
        "seeds": seeds,
        "degrees": {degree: found._asdict() for degree, found in phases.items()},
        "left_out": left_out,
        "placements": [_as_dict(each) for each in candidates],
        "best": _as_key(chosen),
    }


def show(answer: dict[str, Any]) -> None:
    """Prints the degrees, the placements, and the best one as a key of a scenario."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    phases = Table(title=f"One replica, requests/s that {answer['share']:.0%} keep the limit of")
    for column in ("tensor parallel", "prefill: TTFT", "decode: TPOT"):
        phases.add_column(column, justify="right")
    for degree, found in answer["degrees"].items():
        phases.add_row(str(degree), f"{found['prefill_rps']:.4g}", f"{found['decode_rps']:.4g}")
    console.print(phases)
    table = Table(title=f"{answer['scenario']}, up to {answer['gpus']} GPUs, {len(answer['seeds'])} seeds")
    for column in ("system", "replicas", "GPUs", "predicted", "goodput, requests/s", "per GPU"):
        table.add_column(column, justify="left" if column in ("system", "replicas") else "right")
    for each in answer["placements"]:
        predicted = each["predicted_rps"]
        table.add_row(
            each["system"],
            " + ".join(f"{p['replicas']} {p['role']} TP{p['tensor_parallel']}" for p in each["pools"]),
            str(each["gpus"]),
            "" if predicted is None else f"{predicted:.4g}",
            f"{each['goodput_rps']:.4g} [{each['low']:.4g}, {each['high']:.4g}]",
            f"{each['rps_per_gpu']:.3g}",
        )
    console.print(table)
    for degree, why in answer["left_out"].items():
        console.print(f"Left out: tensor parallel {degree}: {why}", soft_wrap=True)
    router = answer["placements"][0]["router"]
    console.print(f"Best: scenario.fleet.replicas=null '{answer['best']}' router={router}", soft_wrap=True)


def _one_replica_each(config: ScenarioConfig) -> ScenarioConfig:
    """The scenario without what is said of single replicas, of which there are others now."""
    for key in ("failures", "scaling"):
        value = getattr(config.fleet, key)
        if value:
            raise InputError(f"scenario.fleet.{key} = {value}: must be empty, replicas are yet to be placed")
    roles = {pool.role for pool in config.fleet.pools} | {config.fleet.role}
    if "encode" in roles:
        raise InputError("scenario.fleet.pools: must have no encode replicas, they are not placed")
    return replace(config, fleet=replace(config.fleet, replicas=1, pools=[], role="mixed"))


def _with_degree(base: ScenarioConfig, degree: int) -> ScenarioConfig:
    return replace(base, fleet=replace(base.fleet, tensor_parallel=degree))


def _members(base: ScenarioConfig, settings: PlaceConfig) -> tuple[dict[int, Member], dict[int, str]]:
    """A replica of every degree, and why degrees that were not asked for by name are left out."""
    degrees = settings.tensor_parallel
    asked = degrees is not None
    if degrees is None:
        degrees = [2**power for power in range(settings.gpus.bit_length())]
    members, left_out = {}, {}
    for degree in degrees:
        if degree > settings.gpus:
            raise InputError(f"tensor_parallel = {degree}: must be at most gpus = {settings.gpus}")
        try:
            members[degree] = fleet_plan(_with_degree(base, degree)).replicas[0]
        except InputError as error:
            if asked:
                raise
            left_out[degree] = str(error)
    if not members:
        raise InputError(f"gpus = {settings.gpus}: no degree of tensor parallelism fits: {left_out}")
    return members, left_out


def _as_dict(candidate: Candidate) -> dict[str, Any]:
    placement, found = candidate.placement, candidate.goodput.estimate
    return {
        "system": placement.system,
        "router": placement.router,
        "pools": [vars(pool) for pool in placement.pools],
        "gpus": placement.gpus,
        "predicted_rps": placement.predicted_rps,
        "goodput_rps": found.iqm,
        "low": found.low,
        "high": found.high,
        "rps_per_gpu": candidate.rps_per_gpu,
    }


def _as_key(candidate: Candidate) -> str:
    """As an override of a scenario."""
    pools = ",".join(
        "{" + ",".join(f"{key}:{value}" for key, value in vars(pool).items()) + "}"
        for pool in candidate.placement.pools
    )
    return f"scenario.fleet.pools=[{pools}]"
