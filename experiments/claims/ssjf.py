"""SSJF: shortest predicted output first, in the model of execution that its authors' simulator has.

A request executes for 0.1 s and 0.02 s a token, in a batch or alone: iterations of 0.02 s, and the constant
is 5 more of them. 50 requests come at 1 to 10 a second, more than is served, 20 times over (model-serving/
of James-QiuHaoran/LLM-serving-with-proxy-models). A batch that is run to its end answers all its requests
then. Outputs are those of ShareGPT (theirs: Vicuna-13B on LMSYS-Chat-1M); predictions are as good as those
of the length classifier that learning to rank compares itself with: Kendall's tau 0.49.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from servegym.agents.schedulers import make_scheduler
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload
from servegym.envs.workloads.predictors import PREDICTORS
from servegym.experiments.claims.claim import Claim, Paper, change
from servegym.experiments.claims.one_engine import SHAREGPT, OneEngine, requests, sharegpt

RATES_RPS = range(1, 11)
SEEDS = range(20)
REQUESTS, BATCH = 50, 4
S_PER_TOKEN, CONSTANT_TOKENS = 0.02, 5
TAU = 0.49
LONGEST_PROMPT = 1_024  # prompts count nothing; those of the other claims

BATCHING = {
    "no batching": ("vllm_v1", 1),
    "static batches": ("static", BATCH),
    "continuous": ("vllm_v1", BATCH),
}
"""Scheduler and seats of the engine."""

PUBLISHED = {
    "no batching": {"SSJF": -0.345, "SJF": -0.437},
    "static batches": {"SSJF": -0.396, "SJF": -0.582},
    "continuous": {"SSJF": -0.332, "SJF": -0.430},
}
"""Change of the mean completion time against FCFS; SJF knows outputs. Static is their dynamic batching."""


def workload_of(rate_rps: float, seed: int, kind: str) -> Workload:
    """Prompts of one token, outputs with the constant, predictions for SSJF or exact ones."""

    def predict(outputs: npt.NDArray[np.int32], rng: np.random.Generator) -> npt.NDArray[np.int32]:
        if kind == "SJF":
            return outputs
        return PREDICTORS["ranked"](outputs, rng=rng, kendall_tau=TAU)

    drawn = requests(sharegpt(LONGEST_PROMPT), REQUESTS, rate_rps, seed, predict)
    assert drawn.predicted_output_tokens is not None
    timed = Workload(
        drawn.name, drawn.arrival_s, np.ones(REQUESTS, int), drawn.output_tokens + CONSTANT_TOKENS
    )
    return timed.with_predictions(drawn.predicted_output_tokens + CONSTANT_TOKENS)


@functools.cache
def engine_of(batching: str) -> OneEngine:
    """Iterations of constant length, and memory for all."""
    scheduler, seats = BATCHING[batching]
    engine = Engine(
        max_num_batched_tokens=BATCH, max_num_seqs=seats, num_kv_blocks=10_000, scheduler=scheduler
    )
    cost = linear_iteration_cost(max_num_batched_tokens=BATCH, max_num_seqs=BATCH, overhead_s=S_PER_TOKEN)
    return OneEngine(engine, cost)


def mean_completion_s(results: Results, batching: str) -> float:
    """Seconds from arrival to the answer, which of a static batch comes for all with its last token."""
    answered_s = results.finish_s
    if batching == "static batches":
        _, batch = np.unique(results.scheduled_s, return_inverse=True)
        ends_s = np.zeros(batch.max() + 1)
        np.maximum.at(ends_s, batch, answered_s)
        answered_s = ends_s[batch]
    return float((answered_s - results.arrival_s).mean())


def completion_change(batching: str, kind: str, seed: int) -> float:
    """Of the mean completion time over all rates, against FCFS."""
    served = engine_of(batching)
    # Where a batch runs to its end the queue is what is ordered; nobody who runs is preempted by either.
    scheduler = make_scheduler("sjf" if batching == "static batches" else "ssjf")
    ours = fcfs = 0.0
    for rate_rps in RATES_RPS:
        workload = workload_of(rate_rps, seed, kind)
        ours += mean_completion_s(served.serve(workload, scheduler), batching)
        fcfs += mean_completion_s(served.serve(workload), batching)
    return ours / fcfs - 1


def measure_completion() -> Mapping[str, Sequence[float]]:
    """Every batching, predicted and exact."""
    return {
        figure_name(batching, kind): [completion_change(batching, kind, seed) for seed in SEEDS]
        for batching, kinds in PUBLISHED.items()
        for kind in kinds
    }


def figure_name(batching: str, kind: str) -> str:
    """Of the change against FCFS."""
    return f"mean completion time, {kind} against FCFS, {batching}"


PAPER = Paper(
    system="SSJF",
    source="Qiu et al., Efficient Interactive LLM Serving with Proxy Model-based Sequence Length Prediction, "
    "arXiv 2404.08509",
    claims=(
        Claim(
            name="completion",
            statement="Shortest predicted job first completes jobs 33 to 40 % sooner than FCFS under every "
            "way of "
            "batching, and 43 to 58 % sooner where outputs are known.",
            workload=f"{REQUESTS} requests at 1 to 10 requests/s with the outputs of ShareGPT; 0.1 s and "
            f"{S_PER_TOKEN} s a token, at most {BATCH} in a batch; predictions with Kendall's tau {TAU}.",
            figures=[
                change(figure_name(batching, kind), published)
                for batching, kinds in PUBLISHED.items()
                for kind, published in kinds.items()
            ],
            measure=measure_completion,
            data=(SHAREGPT,),
            remark="Of 50 requests, four at a time, the last round is a large part of the completion time "
            "that no "
            "order can cut: with 200 (`REQUESTS`) the continuous ones are 29 % (SSJF) and 41 % (SJF) sooner.",
        ),
    ),
)
