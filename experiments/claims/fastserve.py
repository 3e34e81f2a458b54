"""FastServe: a feedback queue that preempts, against batches that run to their end and against vLLM.

As in the authors' artifact (benchmarks/artifact-evaluation/overall of LLMServe/FastServe): OPT-13B,
ShareGPT, 400 requests, batches of 16 and 2,048 tokens for all, 56 GB of host memory, and a limit of 0.3 s
on the mean latency by output token. Ours: an A100 with 40 GB, PCIe at 25 GB/s, iterations that last what
the roofline says. vLLM is the one of that time: prompts first and whole, recomputed when memory runs out.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from servegym.agents.schedulers import make_scheduler
from servegym.costmodels.iterations.compile import compile_iteration_cost, kv_capacity_blocks
from servegym.costmodels.iterations.linear import linear_clock
from servegym.costmodels.specs import ModelSpec, gpu_spec
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.ranking import Ranking
from servegym.envs.sim.llm.simulate import Results
from servegym.experiments.claims.claim import Claim, Paper, at_most, ratio
from servegym.experiments.claims.one_engine import (
    SHAREGPT,
    OneEngine,
    latency_per_token_s,
    requests,
    sharegpt,
)
from servegym.experiments.evaluation.goodput import largest_rate

# NVIDIA A100 40GB SXM data sheet: but for its memory the same chip.
A100_40GB = replace(
    gpu_spec("a100_sxm"), name="a100_sxm_40gb", hbm_bytes=40 * 2**30, hbm_bytes_per_s=1.555e12
)

# Zhang et al., OPT, arXiv 2205.01068. Its feed-forward has two matrices of width 20,480 and no gate; three of
# two thirds of that width are as many weights.
OPT_13B = ModelSpec("opt_13b", 40, 5_120, 40, 40, 128, 13_653, 50_272, "float16")

BUDGET, SEATS, BLOCK_SIZE = 2_048, 16, 16
HOST_BYTES, PCIE_BYTES_PER_S = 56e9, 25e9
LONGEST_PROMPT, LONGEST_OUTPUT = 1_024, 1_024
REQUESTS, SEEDS = 400, range(10)
LIMIT_S = 0.3


@functools.cache
def gpu(scheduler: str) -> OneEngine:
    """An engine with this scheduler."""
    engine = Engine(
        max_num_batched_tokens=BUDGET,
        max_num_seqs=SEATS,
        num_kv_blocks=kv_capacity_blocks(OPT_13B, A100_40GB, block_size=BLOCK_SIZE),
        block_size=BLOCK_SIZE,
        scheduler=scheduler,
    )
    cost = compile_iteration_cost(
        OPT_13B,
        A100_40GB,
        max_num_batched_tokens=BUDGET,
        max_num_seqs=SEATS,
        max_kv_tokens=engine.num_kv_blocks * BLOCK_SIZE,
    )
    return OneEngine(engine, cost)


@functools.cache
def fastserve() -> Ranking:
    """With the published quanta, and the host memory of the artifact."""
    block_bytes = BLOCK_SIZE * OPT_13B.kv_bytes_per_token
    served = gpu("vllm_v1")
    return make_scheduler(
        "fastserve",
        max_batch=SEATS,
        swap_blocks=int(HOST_BYTES / block_bytes),
        swap_s_per_block=block_bytes / PCIE_BYTES_PER_S,
        swap_ahead_blocks=SEATS,
        clock=linear_clock(served.cost, served.engine.num_kv_blocks * BLOCK_SIZE),
    )


def serve(name: str, rate_rps: float, seed: int) -> Results:
    """FastServe, vLLM or batches that run to their end."""
    workload = requests(sharegpt(LONGEST_PROMPT, LONGEST_OUTPUT), REQUESTS, rate_rps, seed)
    if name == "FastServe":
        return gpu("vllm_v1").serve(workload, fastserve())
    return gpu({"vLLM": "vllm_v0", "run to completion": "static"}[name]).serve(workload)


@functools.cache
def largest_rate_rps(name: str, seed: int) -> float:
    """At which the mean latency by token stays within the limit."""
    return largest_rate(
        lambda rate: float(latency_per_token_s(serve(name, rate, seed)).mean()) <= LIMIT_S,
        guess=1.0,
        tolerance=0.02,
    )


def measure_static() -> Mapping[str, Sequence[float]]:
    """At the largest rate that batches which run to their end keep within the limit."""
    ratios = []
    for seed in SEEDS:
        rate_rps = largest_rate_rps("run to completion", seed)
        ours, rival = (
            latency_per_token_s(serve(name, rate_rps, seed)).mean()
            for name in ("FastServe", "run to completion")
        )
        ratios.append(float(ours / rival))
    return {"mean latency, FastServe / run to completion": ratios}


def measure_throughput() -> Mapping[str, Sequence[float]]:
    """Rates within the limit."""
    gains = [largest_rate_rps("FastServe", seed) / largest_rate_rps("vLLM", seed) for seed in SEEDS]
    return {"rate within the limit, FastServe / vLLM": gains}


PAPER = Paper(
    system="FastServe",
    source="Wu et al., Fast Distributed Inference Serving for Large Language Models, arXiv 2305.05920",
    claims=(
        Claim(
            name="run_to_completion",
            statement="Lower mean latency than first come, first served with batches that run to their end.",
            workload=f"{REQUESTS:,} ShareGPT conversations at the largest rate at which the latter keeps "
            f"the mean "
            f"latency within {LIMIT_S:g} s a token; OPT-13B on an A100 with 40 GB.",
            figures=(at_most("mean latency, FastServe / run to completion", 1.0),),
            measure=measure_static,
            data=(SHAREGPT,),
        ),
        Claim(
            name="throughput",
            statement="At an equal mean latency up to 31.4 times the throughput of vLLM (6.1 times in the "
            "version "
            "of NSDI).",
            workload=f"The same; the largest rates within {LIMIT_S:g} s a token.",
            figures=(ratio("rate within the limit, FastServe / vLLM", 6.1, 31.4),),
            measure=measure_throughput,
            data=(SHAREGPT,),
            remark="vLLM keeps the limit here up to 2.5 requests/s, more than the engine can serve for "
            "long (1.9/s, "
            "400 requests at once in 214 s), so no scheduler has six times that; the published vLLM must "
            "have "
            "queued far below what its GPU can do.",
        ),
    ),
)
