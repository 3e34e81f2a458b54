"""Fleet, policies and traces of Llumnix's experiments; llumnix.py says what of them is as there."""

import functools
from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.agents.heuristics import make_rebalancer, make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import compile_iteration_cost
from servegym.costmodels.specs import GpuSpec, model_spec
from servegym.envs.sim.llm.cluster.plan import FleetPlan, Member, Migration
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload, find_data
from servegym.envs.workloads.length_tables import read_lengths

# NVIDIA A10 data sheet: dense FP16, 24 GB GDDR6, PCIe 4.0 x16 in place of NVLink. GA102 white paper: L2,
# whose bandwidth is assumed to be 64 bytes a clock and SM.
A10 = GpuSpec(
    name="a10",
    peak_flops_per_s=MappingProxyType({"bfloat16": 125e12, "float16": 125e12}),
    hbm_bytes=24 * 2**30,
    hbm_bytes_per_s=600e9,
    l2_bytes=6 * 2**20,
    l2_bytes_per_s=72 * 64 * 1.695e9,
    nvlink_bytes_per_s=32e9,
    tdp_w=150.0,
    num_sms=72,
    clock_hz=1.695e9,
)
MODEL = "llama_2_7b"  # the shape of LLaMA-7B
REPLICAS, KV_TOKENS, BLOCK_SIZE = 16, 12_800, 16
LINK_BYTES_PER_S = 8e9  # 64 Gbit/s between machines
MOVES_EVERY_S = 0.15  # every fourth iteration, as there, of about 40 ms
LONGEST = 6_144
REQUESTS = 10_000
SHAREGPT = "traces/lengths/sharegpt_val_10k_llama2.csv.gz"


class Policy(NamedTuple):
    """A router, and whether running requests move."""

    router: Router
    moves: bool = False


POLICIES = {
    "round robin": Policy(make_router("round_robin")),
    "INFaaS++": Policy(make_router("llumnix_dispatch", defrag=False)),
    "Llumnix": Policy(make_router("llumnix_dispatch", defrag=False), moves=True),
}


class Trace(NamedTuple):
    """Means of prompts and outputs (None: lengths of ShareGPT), rates in requests/s, Llumnix's threshold.

    The threshold is in free KV blocks a request.
    """

    lengths: tuple[int, int] | None
    rates: Sequence[float]
    threshold: float = 3.0


GENERATED = (
    Trace((128, 128), (32, 35, 38)),
    Trace((256, 256), (7.4, 7.7, 8.0), 10.0),
    Trace((512, 512), (2.6, 2.9, 3.2)),
    Trace((128, 512), (4.1, 4.25, 4.4), 10.0),
    Trace((512, 128), (10, 16, 22)),
)
"""The generated traces with the lowest, middle and highest rate of the artifact."""

REAL = Trace(None, (15, 18, 21))
"""Ours are other ShareGPT conversations than the paper's (7 to 8/s), shorter: at these rates they need as
much KV memory (tokens held, added up over iterations, a second) as the generated traces in the middle of
theirs."""


@functools.cache
def member() -> Member:
    """One A10 with its engine."""
    model = model_spec(MODEL)
    engine = Engine(
        max_num_batched_tokens=KV_TOKENS,
        max_num_seqs=256,
        num_kv_blocks=KV_TOKENS // BLOCK_SIZE,
        block_size=BLOCK_SIZE,
    )
    cost = compile_iteration_cost(
        model,
        A10,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        max_kv_tokens=KV_TOKENS,
    )
    return Member(
        engine,
        cost,
        link_bytes_per_s=LINK_BYTES_PER_S,
        kv_bytes_per_block=float(BLOCK_SIZE * model.kv_bytes_per_token),
    )


def serve(
    workload: Workload, name: str, threshold: float, replicas: int = REPLICAS, *, log: bool = False
) -> Results:
    """The workload on so many A10s under the policy of that name."""
    policy = POLICIES[name]
    migration = None
    if policy.moves:
        rule = make_rebalancer("llumnix", out_below=threshold, in_above=threshold, block_size=BLOCK_SIZE)
        migration = Migration(rule, MOVES_EVERY_S)
    return simulate_fleet(
        workload, policy.router, FleetPlan([member()] * replicas, migration=migration), log=log
    )


ZIPF_EXPONENTS = {128: 2.0, 256: 1.5, 512: 1.15}
"""By the mean, as in the artifact."""


def zipf(mean: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Lengths of REQUESTS requests: Zipf on 1 .. 2 mean - 1, stretched to the mean, cut off at LONGEST."""
    ranks = np.arange(1, 2 * mean)
    weights = ranks ** -ZIPF_EXPONENTS[mean]
    drawn = rng.choice(ranks, REQUESTS, p=weights / weights.sum())
    lengths: npt.NDArray[np.int32] = np.minimum(np.ceil(drawn * mean / drawn.mean()), LONGEST).astype(
        np.int32
    )
    return lengths


def requests(trace: Trace, rate_rps: float, seed: int) -> Workload:
    """Poisson arrivals with the lengths of a trace; equal seeds have equal lengths at every rate."""
    gaps, prompts, outputs = (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(3))
    arrival_s = np.cumsum(gaps.exponential(1 / rate_rps, REQUESTS))
    if trace.lengths is not None:
        prompt, output = trace.lengths
        return Workload("zipf", arrival_s, zipf(prompt, prompts), zipf(output, outputs))
    path = find_data(SHAREGPT)
    if path is None:
        raise InputError(f"{SHAREGPT}: not in the data folder, must be there for claims of Llumnix")
    return Workload("ShareGPT", arrival_s, *read_lengths(path).sample(REQUESTS, prompts))


def preemption_loss_s(results: Results) -> float:
    """Seconds from each preemption to the end of the next iteration that serves the request, added up."""
    log = results.log
    assert log is not None
    lost = log.preemptions
    was_lost = np.zeros(len(results.outcome), np.bool_)
    was_lost[lost["request"]] = True
    entries = np.flatnonzero(was_lost[log.entries["request"]])
    iterations = log.iterations[np.searchsorted(log.iterations["first_entry"], entries, side="right") - 1]
    horizon_s = float(log.iterations["end_s"].max()) + 1.0  # requests stand one behind the other in time
    starts = log.entries["request"][entries] * horizon_s + iterations["start_s"]
    order = np.argsort(starts)
    nearest = np.searchsorted(starts[order], lost["request"] * horizon_s + lost["time_s"])
    return float((iterations["end_s"][order][nearest] - lost["time_s"]).sum())
