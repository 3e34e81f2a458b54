"""Mean latency of a batching server in closed form, against the simulator of batch serving.

ResNet-50 with the times of the paper: tau(b) = 0.1438 b + 1.8874 ms on a V100, 0.5833 b + 1.4284 ms on a P4.
One GPU takes all that wait as soon as it is free: Symphony's eager condition without an objective.
"""

from collections.abc import Mapping, Sequence

from servegym.agents.batch_schedulers import make_batch_scheduler
from servegym.agents.smdp.inoue import mean_latency_bounds_s, mean_latency_s
from servegym.costmodels.batch import LinearBatchLatency
from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.simulate import simulate_batches
from servegym.experiments.claims.batch_load import poisson
from servegym.experiments.claims.claim import Claim, Figure, Paper, at_most

GPUS = {"V100": LinearBatchLatency(0.1438e-3, 1.8874e-3), "P4": LinearBatchLatency(0.5833e-3, 1.4284e-3)}
LOADS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Rates as shares of the largest, 1 / alpha."""
SEEDS = range(5)
REQUESTS = 400_000
MAX_BATCH = 2_048  # none: far more than wait


def simulated_s(gpu: str, load: float, seed: int) -> float:
    """The mean latency of a simulation."""
    law = GPUS[gpu]
    cluster = BatchCluster((ServedModel.of_law("ResNet50", law, MAX_BATCH),), 1)
    requests = poisson(REQUESTS, seed)
    at_rate = requests.scale_rate(load / law.alpha_s / requests.rate_rps)
    eager = make_batch_scheduler("symphony", condition="eager", drop="timeout")
    results = simulate_batches(cluster, at_rate, eager)
    assert results.batch_size.max() < MAX_BATCH
    return float((results.end_s - results.arrival_s).mean())


def distance(gpu: str, load: float, seed: int) -> float:
    """From the formula, relative."""
    law = GPUS[gpu]
    exact_s = mean_latency_s(load / law.alpha_s, law.alpha_s, law.beta_s)
    return abs(simulated_s(gpu, load, seed) / exact_s - 1)


def over_bound(gpu: str, load: float) -> float:
    """The mean latency by the formula over the lesser bound."""
    law = GPUS[gpu]
    of_law = (load / law.alpha_s, law.alpha_s, law.beta_s)
    return mean_latency_s(*of_law) / min(mean_latency_bounds_s(*of_law))


EXACT, BOUND = "distance of the mean latency from the formula", "mean latency over its bound"


def _name(what: str, gpu: str, load: float) -> str:
    return f"{what}, {gpu} at {load:.0%}"


def measure_exact() -> Mapping[str, Sequence[float]]:
    """How far simulations are from the formula."""
    return {
        _name(EXACT, gpu, load): [distance(gpu, load, seed) for seed in SEEDS]
        for gpu in GPUS
        for load in LOADS
    }


def measure_bounds() -> Mapping[str, Sequence[float]]:
    """How near the bounds are to the formula."""
    return {_name(BOUND, gpu, load): [over_bound(gpu, load)] for gpu in GPUS for load in LOADS}


def _figures(what: str, bound: float) -> Sequence[Figure]:
    return [at_most(_name(what, gpu, load), bound) for gpu in GPUS for load in LOADS]


AT_LOADS = f"at {', '.join(f'{load:.0%}' for load in LOADS)} of the largest rate."

PAPER = Paper(
    system="Dynamic batching as a queue",
    source="Inoue, Queueing Analysis of GPU-Based Inference Servers with Dynamic Batching: A Closed-Form "
    "Characterization, arXiv 1912.06322",
    claims=(
        Claim(
            name="exact",
            statement="The mean latency, exactly, given the share of time in which the server is idle.",
            workload=f"ResNet-50 on one GPU, {REQUESTS:,} Poisson requests, {len(SEEDS)} seeds, {AT_LOADS}",
            figures=_figures(EXACT, 0.01),
            measure=measure_exact,
        ),
        Claim(
            name="bounds",
            statement="The mean latency is at most the lesser of two bounds in closed form.",
            workload=f"The formula that simulations confirm (exact), {AT_LOADS} Nothing is simulated.",
            figures=_figures(BOUND, 1.0),
            measure=measure_bounds,
        ),
    ),
)
