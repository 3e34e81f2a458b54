"""TRAIL: shortest predicted remaining output first, with preemption only of those who have not come far.

Llama-3.1-8B on an A100 with chunked prefill, 512 tokens an iteration as in vLLM 0.5.0; 48 requests run at
once, 1,000 come at 10, 20 and 30 a second (README and scripts/benchmark.py of
harvard-cns/TRAIL-llm-scheduling). Alpaca is not at hand: its prompts are short and the answers end by 512
tokens, so ours are the conversations of ShareGPT with prompts of at most 64 and outputs of at most 512.
First predictions are off by the published 46.1 tokens in the mean, and get better by the published 33.9 /
46.1 while tokens come.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from servegym.agents.schedulers import make_scheduler
from servegym.envs.metrics import latency_s, ttft_s
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload, noisy_predictions
from servegym.envs.workloads.predictors import TRAIL_IMPROVEMENT
from servegym.experiments.claims.claim import Claim, Paper, at_most, ratio
from servegym.experiments.claims.one_engine import SHAREGPT, preset_engine, requests, sharegpt

LONGEST_PROMPT, LONGEST_OUTPUT = 64, 512
BUDGET, SEATS = 512, 48
REQUESTS, RATES_RPS = 1_000, (10.0, 20.0, 30.0)
SEEDS = range(10)
ERROR_TOKENS = 46.1
C = 0.8
SMALLER = (0.0, 0.2, 0.5)
"""Values of c that preempt less."""

SCARCE_BLOCKS = {"a half": 380, "a quarter": 190}
"""KV blocks for these shares of what 48 requests of the mean length (22 + 232 tokens) hold at their ends."""


@functools.cache
def workload_of(rate_rps: float, seed: int) -> Workload:
    """Short conversations with predictions that refine."""

    def predict(outputs: npt.NDArray[np.int32], rng: np.random.Generator) -> npt.NDArray[np.int32]:
        return noisy_predictions(outputs, ERROR_TOKENS / float(outputs.mean()), rng)

    drawn = requests(sharegpt(LONGEST_PROMPT, LONGEST_OUTPUT), REQUESTS, rate_rps, seed, predict)
    assert drawn.predicted_output_tokens is not None
    return drawn.with_predictions(drawn.predicted_output_tokens, TRAIL_IMPROVEMENT)


def serve(workload: Workload, c: float | None, num_kv_blocks: int | None = None) -> Results:
    """First come, first served where c is None; else TRAIL."""
    gpu = preset_engine("a100_sxm", "llama_3_1_8b", budget=BUDGET, seats=SEATS, num_kv_blocks=num_kv_blocks)
    return gpu.serve(workload, None if c is None else make_scheduler("trail", c=c))


def measure_speed() -> Mapping[str, Sequence[float]]:
    """The largest gains over the rates."""
    latencies, ttfts = [], []
    for seed in SEEDS:
        pairs = [[serve(workload_of(rate, seed), who) for who in (None, C)] for rate in RATES_RPS]
        latencies.append(max(float(latency_s(a).mean() / latency_s(b).mean()) for a, b in pairs))
        ttfts.append(max(float(ttft_s(a).mean() / ttft_s(b).mean()) for a, b in pairs))
    return {"mean latency, FCFS / TRAIL": latencies, "mean TTFT, FCFS / TRAIL": ttfts}


@functools.cache
def scarce_latency_s(c: float, num_kv_blocks: int, seed: int) -> float:
    """Mean over the rates."""
    served = [serve(workload_of(rate, seed), c, num_kv_blocks) for rate in RATES_RPS]
    return float(np.mean([latency_s(results).mean() for results in served]))


def measure_scarce(rivals: Sequence[float]) -> Mapping[str, Sequence[float]]:
    """C against the best of these, for every size of the memory."""
    return {
        scarce_name(share, rivals): [
            scarce_latency_s(C, blocks, seed) / min(scarce_latency_s(c, blocks, seed) for c in rivals)
            for seed in SEEDS
        ]
        for share, blocks in SCARCE_BLOCKS.items()
    }


def scarce_name(share: str, rivals: Sequence[float]) -> str:
    """Of the figure."""
    against = " or ".join(f"{c:g}" for c in rivals)
    return f"mean latency, c = {C} / c = {against}, {share} of the memory"


def scarce_claim(name: str, statement: str, rivals: Sequence[float], remark: str) -> Claim:
    """C against these values."""
    return Claim(
        name=name,
        statement=statement,
        workload=f"The same, with KV cache for a half and for a quarter of {SEATS} requests; mean over the "
        f"rates.",
        figures=[at_most(scarce_name(share, rivals), 1.0) for share in SCARCE_BLOCKS],
        measure=functools.partial(measure_scarce, rivals),
        data=(SHAREGPT,),
        remark=remark,
    )


PAPER = Paper(
    system="TRAIL",
    source="Shahout et al., Don't Stop Me Now: Embedding Based Scheduling for LLMs, ICLR 2025, arXiv "
    "2410.01035",
    claims=(
        Claim(
            name="speed",
            statement="Mean latency 1.66 to 2.01 and mean TTFT 1.76 to 24.07 times less than with FCFS.",
            workload=f"{REQUESTS:,} short ShareGPT conversations at 10, 20 and 30 requests/s, the largest "
            f"gain; "
            f"Llama-3.1-8B on an A100, {SEATS} at once.",
            figures=(
                ratio("mean latency, FCFS / TRAIL", 1.66, 2.01),
                ratio("mean TTFT, FCFS / TRAIL", 1.76, 24.07),
            ),
            measure=measure_speed,
            data=(SHAREGPT,),
        ),
        scarce_claim(
            "limited_preemption",
            f"Where memory is scarce, preempting only before c = {C} of the prediction is better than "
            f"always.",
            (1.0,),
            "Less than 1 % either way: past 0.8 of a prediction few are preempted even with c = 1.",
        ),
        scarce_claim(
            "best_c",
            f"c = {C} is the best; smaller ones are worse.",
            SMALLER,
            "Preempting earlier costs less here, too, so the less of it the better: a preempted request is "
            "computed "
            "again, and with c = 0.8 half as many more requests are preempted as with c = 0. Where memory "
            "is not "
            "scarce (800 blocks and more) all c from 0 to 1 are within 1 %.",
        ),
    ),
)
