"""Multi-bin batching: the throughput of batches that run to their end grows with the number of bins.

The paper's model: service times uniform on [lmin, lmax], batches of B that last as long as their longest
request, k bins of equal probability, and requests that never run out. The capacity is then

    c_k = B / (lmin + (lmax - lmin) * ((k - 1) / (2 k) + B / (k (B + 1))))

requests a unit of time: the mean over bins of the longest of B uniform ones. Here a unit is an iteration of
constant length, a request needs one for each token of its output, and a burst stands for requests without
end.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from servegym.agents.schedulers import make_scheduler
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.workloads import Workload
from servegym.experiments.claims.claim import Claim, Paper, at_most, ratio
from servegym.experiments.claims.one_engine import SHAREGPT, OneEngine, preset_engine, requests, sharegpt

BINS = (1, 2, 4, 8, 16)
SEEDS = range(5)

LMIN, LMAX, BATCH = 100, 1_000, 32
UNIFORM_REQUESTS = 64 * max(BINS) * BATCH

CHAT_BATCH, CHAT_PROMPT, CHAT_REQUESTS = 8, 1_024, 4_000


def capacity(bins: int, batch: int = BATCH, lmin: float = LMIN, lmax: float = LMAX) -> float:
    """c_k, requests a unit of time."""
    longest = (bins - 1) / (2 * bins) + batch / (bins * (batch + 1))
    return batch / (lmin + (lmax - lmin) * longest)


def uniform_throughput(bins: int, seed: int, count: int = UNIFORM_REQUESTS) -> float:
    """Requests an iteration, of a burst with outputs uniform on LMIN .. LMAX that are known beforehand."""
    outputs = np.random.default_rng(seed).integers(LMIN, LMAX + 1, count, np.int32)
    workload = Workload("uniform", np.zeros(count), np.ones(count, int), outputs).with_predictions(outputs)
    engine = Engine(max_num_batched_tokens=BATCH, max_num_seqs=BATCH, num_kv_blocks=BATCH * (LMAX + 1))
    cost = linear_iteration_cost(max_num_batched_tokens=BATCH, max_num_seqs=BATCH, overhead_s=1.0)
    edges = tuple(LMIN + (LMAX - LMIN) * np.arange(1, bins) / bins)
    scheduler = make_scheduler(
        "multi_bin", num_bins=bins, batch_size=BATCH, max_num_batched_tokens=BATCH, edges=edges
    )
    results = OneEngine(engine, cost).serve(workload, scheduler)
    return float(count / results.finish_s.max())


def measure_capacity() -> Mapping[str, Sequence[float]]:
    """How far the throughput is from c_k."""
    return {
        distance_name(bins): [abs(uniform_throughput(bins, seed) / capacity(bins) - 1) for seed in SEEDS]
        for bins in BINS
    }


def distance_name(bins: int) -> str:
    """Of the figure."""
    return f"distance of throughput from c_k, k = {bins}"


@functools.cache
def chat_throughput(bins: int, seed: int) -> float:
    """Requests/s of a burst of ShareGPT conversations; bins by quantiles of other conversations."""
    gpu = preset_engine("a100_sxm", "llama_3_1_8b", budget=CHAT_BATCH * CHAT_PROMPT, seats=CHAT_BATCH)
    workload = requests(sharegpt(CHAT_PROMPT), CHAT_REQUESTS, np.inf, seed, lambda outputs, _: outputs)
    others = requests(sharegpt(CHAT_PROMPT), CHAT_REQUESTS, np.inf, seed + 1_000).output_tokens
    scheduler = make_scheduler(
        "multi_bin",
        num_bins=bins,
        batch_size=CHAT_BATCH,
        max_num_batched_tokens=CHAT_BATCH * CHAT_PROMPT,
        predicted_outputs=tuple(others.tolist()),
    )
    return float(CHAT_REQUESTS / gpu.serve(workload, scheduler).finish_s.max())


def measure_gain() -> Mapping[str, Sequence[float]]:
    """Throughput with the best number of bins against one bin."""
    gains = [max(chat_throughput(bins, seed) for bins in BINS) / chat_throughput(1, seed) for seed in SEEDS]
    return {"throughput, multi-bin / one bin": gains}


PAPER = Paper(
    system="Multi-bin batching",
    source="Guldogan et al., Multi-Bin Batching for Increasing LLM Inference Throughput, arXiv 2412.04504",
    claims=(
        Claim(
            name="capacity",
            statement="With k bins the throughput is c_k, which tends to batch / mean length as k grows.",
            workload=f"{UNIFORM_REQUESTS:,} requests at once, outputs uniform on {LMIN} to {LMAX} tokens and "
            f"known, batches of {BATCH}, iterations of constant length.",
            figures=[at_most(distance_name(bins), 0.02) for bins in BINS],
            measure=measure_capacity,
        ),
        Claim(
            name="gain",
            statement="Up to 70 % more throughput than with one bin.",
            workload=f"{CHAT_REQUESTS:,} ShareGPT conversations at once with prompts of at most "
            f"{CHAT_PROMPT} tokens, outputs "
            f"known, batches of {CHAT_BATCH}, Llama-3.1-8B on an A100; the best of "
            f"{', '.join(map(str, BINS))} bins.",
            figures=(ratio("throughput, multi-bin / one bin", 1.7),),
            measure=measure_gain,
            data=(SHAREGPT,),
        ),
    ),
)
