"""Placements of a number of GPUs, and the goodput of each.

DistServe's algorithm 1 (Zhong et al., OSDI 2024, section 4.1), in our reading for a given number of GPUs:
every tensor-parallel degree is simulated as a prefill replica and as a decode replica; for every pair of
degrees the numbers of replicas are those whose slower phase is fastest, and the fewest of these. Its pipeline
parallelism is left out. Ours: the best split of each pair is then simulated as a whole fleet, since the
phases' goodputs know nothing of links, of pooling, and of requests that miss one limit each.

Beside these, `splitwise` has the same splits of replicas that are all alike under Splitwise's router (Patel
et al., ISCA 2024), and `colocated` the GPUs as mixed replicas under join-the-shortest-queue.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.cluster.plan import FleetPlan, Member
from servegym.envs.sim.llm.router import Router
from servegym.experiments.evaluation.goodput import Demand, Goodput
from servegym.experiments.placement.phases import PhaseGoodputs, Search, fleet_goodput


@dataclass(frozen=True)
class Pool:
    """Equal replicas of `tensor_parallel` GPUs each."""

    replicas: int
    role: str
    tensor_parallel: int

    @property
    def gpus(self) -> int:
        return self.replicas * self.tensor_parallel


@dataclass(frozen=True)
class Placement:
    """What is made of the GPUs, and who routes. `predicted_rps`: the slower phase's; None where mixed."""

    system: str
    router: str
    pools: tuple[Pool, ...]
    predicted_rps: float | None = None

    @property
    def gpus(self) -> int:
        return sum(pool.gpus for pool in self.pools)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A placement and the goodput of the whole fleet, simulated."""

    placement: Placement
    goodput: Goodput

    @property
    def rps_per_gpu(self) -> float:
        return float(self.goodput.rates.mean()) / self.placement.gpus


def placements(gpus: int, phases: Mapping[int, PhaseGoodputs]) -> Iterator[Placement]:
    """Those to simulate on at most so many GPUs; `phases` by tensor-parallel degree."""
    for prefill_degree, prefill in phases.items():
        for decode_degree, decode in phases.items():
            split = _best_split(gpus, prefill_degree, prefill, decode_degree, decode)
            if split is None:
                continue
            yield split
            if prefill_degree == decode_degree:
                yield replace(split, system="splitwise", router="splitwise")
    for degree in phases:
        if degree <= gpus:
            yield Placement("colocated", "jsq", (Pool(gpus // degree, "mixed", degree),))


def _best_split(
    gpus: int, prefill_degree: int, prefill: PhaseGoodputs, decode_degree: int, decode: PhaseGoodputs
) -> Placement | None:
    """The numbers of replicas whose slower phase is fastest; of equals the fewest GPUs. None without any."""
    splits = [
        Placement(
            "distserve",
            "distserve",
            (Pool(prefills, "prefill", prefill_degree), Pool(decodes, "decode", decode_degree)),
            min(prefills * prefill.prefill_rps, decodes * decode.decode_rps),
        )
        for prefills in range(1, gpus // prefill_degree + 1)
        for decodes in range(1, (gpus - prefills * prefill_degree) // decode_degree + 1)
    ]
    useful = [split for split in splits if split.predicted_rps]
    return max(useful, key=lambda split: (split.predicted_rps, -split.gpus), default=None)


def simulated(
    placement: Placement, member: Callable[[int], Member], fleet: FleetPlan, demand: Demand, search: Search
) -> Candidate:
    """A placement with its goodput; `member` makes a replica of a degree, `fleet` says how it is operated."""
    members = [
        replace(member(pool.tensor_parallel), role=pool.role)
        for pool in placement.pools
        for _ in range(pool.replicas)
    ]
    plan = replace(fleet, replicas=members)
    return Candidate(placement, fleet_goodput(plan, _router(placement), demand, search))


def _router(placement: Placement) -> Router:
    if placement.router == "jsq":
        return make_router("jsq")
    roles = [pool.role for pool in placement.pools for _ in range(pool.replicas)]
    return make_router(placement.router, roles=roles)


def best(candidates: list[Candidate]) -> Candidate:
    """The most goodput for each GPU that it uses. InputError where no placement keeps the limits."""
    found = max(candidates, key=lambda each: each.rps_per_gpu, default=None)
    if found is None or found.rps_per_gpu == 0:
        raise InputError(
            "place: no placement keeps the limits at any rate; they must be longer, or share lower"
        )
    return found
