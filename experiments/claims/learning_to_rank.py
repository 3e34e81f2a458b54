"""Learning to rank: shortest predicted output first, as good as the predicted order is.

Llama-3.1-8B on an A100 with chunked prefill, 768 tokens an iteration as in the authors' vLLM 0.4.1, requests
of 60 s and bursts of 2,000, prompts of at most 1,024 tokens (benchmarks/ of hao-ai-lab/vllm-ltr). Outputs are
those of ShareGPT itself (theirs: Llama-3 on the prompts of ShareGPT and LMSYS-Chat-1M), predictions have the
Kendall tau that they publish for ShareGPT. As there, speed is measured without the guard against starvation,
and the guard by itself. Latencies are by output token.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from servegym.agents.schedulers import make_scheduler
from servegym.envs.metrics import ttft_s
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload
from servegym.envs.workloads.predictors import PREDICTORS
from servegym.experiments.claims.claim import Claim, Paper, at_most, ratio
from servegym.experiments.claims.one_engine import (
    SHAREGPT,
    OneEngine,
    latency_per_token_s,
    preset_engine,
    requests,
    sharegpt,
)

LONGEST_PROMPT = 1_024
BUDGET, SEATS = 768, 256
TAU = 0.55
SEEDS = range(5)
FASTEST_RPS, OF_S = 64.0, 60.0
BURST = 2_000
TAUS = (0.2, 0.4, 0.6, 0.8, 1.0)
GUARD_RPS = 32.0
"""The fastest at which the authors try the guard."""

FCFS, OURS = None, 0
"""Iterations until the guard of a scheduler takes somebody for starved; 0: never, None: not ours."""
GUARD = 200


@functools.cache
def gpu() -> OneEngine:
    """The engine of all claims."""
    return preset_engine("a100_sxm", "llama_3_1_8b", budget=BUDGET, seats=SEATS)


@functools.cache
def workload_of(count: int, rate_rps: float, seed: int, tau: float = TAU) -> Workload:
    """Conversations with predictions as good as `tau`."""

    def predict(outputs: npt.NDArray[np.int32], rng: np.random.Generator) -> npt.NDArray[np.int32]:
        return PREDICTORS["ranked"](outputs, rng=rng, kendall_tau=tau)

    return requests(sharegpt(LONGEST_PROMPT), count, rate_rps, seed, predict)


def serve(workload: Workload, starvation_iterations: int | None, *, log: bool = False) -> Results:
    """First come, first served for FCFS; else learning to rank with this guard."""
    scheduler = None
    if starvation_iterations is not None:
        scheduler = make_scheduler("learning_to_rank", starvation_iterations=starvation_iterations)
    return gpu().serve(workload, scheduler, log=log)


def measure_fastest() -> Mapping[str, Sequence[float]]:
    """At the highest rate."""
    ratios = []
    for seed in SEEDS:
        workload = workload_of(int(FASTEST_RPS * OF_S), FASTEST_RPS, seed)
        fcfs, ours = (latency_per_token_s(serve(workload, who)).mean() for who in (FCFS, OURS))
        ratios.append(float(fcfs / ours))
    return {"mean latency, FCFS / ours": ratios}


def measure_burst() -> Mapping[str, Sequence[float]]:
    """All at once."""
    means, tails = [], []
    for seed in SEEDS:
        workload = workload_of(BURST, np.inf, seed)
        fcfs, ours = (latency_per_token_s(serve(workload, who)) for who in (FCFS, OURS))
        means.append(float(fcfs.mean() / ours.mean()))
        tails.append(float(np.quantile(fcfs, 0.9) / np.quantile(ours, 0.9)))
    return {"mean latency, FCFS / ours": means, "P90 latency, FCFS / ours": tails}


def measure_tau() -> Mapping[str, Sequence[float]]:
    """The largest change of the mean latency from one tau to the next."""
    changes = []
    for seed in SEEDS:
        means = [
            latency_per_token_s(serve(workload_of(BURST, np.inf, seed, tau), OURS)).mean() for tau in TAUS
        ]
        changes.append(float(max(np.diff(means) / means[:-1])))
    return {"mean latency, largest change from one tau to the next": changes}


def longest_waits_s(results: Results) -> npt.NDArray[np.float64]:
    """Of each request (N,): the longest it waits for its first or for another token, s. Needs the log."""
    log = results.log
    assert log is not None
    entries = log.entries
    counts = np.diff(np.append(log.iterations["first_entry"], len(entries)))
    ends_s = np.repeat(log.iterations["end_s"], counts)
    gives_token = ends_s >= results.first_token_s[entries["request"]]
    request, ends_s = entries["request"][gives_token], ends_s[gives_token]
    order = np.argsort(request, kind="stable")
    gaps_s = np.diff(ends_s[order], prepend=0.0)
    own = np.diff(request[order], prepend=-1) == 0  # the gap to a token of the same request
    waits_s = ttft_s(results)
    np.maximum.at(waits_s, request[order][own], gaps_s[own])
    return waits_s


def measure_guard() -> Mapping[str, Sequence[float]]:
    """What the guard does to waits, and what it costs."""
    cuts, costs = [], []
    for seed in SEEDS:
        workload = workload_of(int(GUARD_RPS * OF_S), GUARD_RPS, seed)
        without, guarded = (serve(workload, who, log=True) for who in (OURS, GUARD))
        cuts.append(float(longest_waits_s(without).mean() / longest_waits_s(guarded).mean()))
        costs.append(float(latency_per_token_s(guarded).mean() / latency_per_token_s(without).mean() - 1))
    return {"mean of the longest waits, unguarded / guarded": cuts, "mean latency, added": costs}


PAPER = Paper(
    system="Learning to rank",
    source="Fu et al., Efficient LLM Scheduling by Learning to Rank, NeurIPS 2024, arXiv 2408.15792",
    claims=(
        Claim(
            name="fastest",
            statement="Up to 6.9 times less mean latency than FCFS at 64 requests/s; 2.8 times in chatbot "
            "serving.",
            workload=f"{FASTEST_RPS:g} requests/s for {OF_S:g} s, ShareGPT, Llama-3.1-8B on an A100.",
            figures=(ratio("mean latency, FCFS / ours", 2.8, 6.9),),
            measure=measure_fastest,
            data=(SHAREGPT,),
        ),
        Claim(
            name="burst",
            statement="A burst of 2,000 requests: 1.73 s a token with FCFS and 0.38 s with ours, P90 4.86 "
            "and 0.52 s.",
            workload=f"{BURST:,} requests at once, ShareGPT, Llama-3.1-8B on an A100.",
            figures=(
                ratio("mean latency, FCFS / ours", 1.73 / 0.38),
                ratio("P90 latency, FCFS / ours", 4.86 / 0.52),
            ),
            measure=measure_burst,
            data=(SHAREGPT,),
            remark="The published burst is of LMSYS-Chat-1M, which is not at hand. What predictions leave: "
            "with "
            "Kendall's tau 0.62, as published for LMSYS, means differ 3.4 times and P90 4.1 times, with "
            "exact ones "
            "4.2 and 6.2 times.",
        ),
        Claim(
            name="tau",
            statement="The closer the predicted order is to the true one by Kendall's tau, the lower the "
            "latency.",
            workload=f"The burst, with tau {', '.join(map(str, TAUS))}.",
            figures=(at_most("mean latency, largest change from one tau to the next", 0.0),),
            measure=measure_tau,
            data=(SHAREGPT,),
        ),
        Claim(
            name="guard",
            statement="The guard against starvation cuts the longest waits for a token 3.3 to 3.4 times, "
            "and mean "
            "latency grows by less than 30 %.",
            workload=f"{GUARD_RPS:g} requests/s for {OF_S:g} s, T = {GUARD}, Q = 10, Llama-3.1-8B on an "
            f"A100.",
            figures=(
                ratio("mean of the longest waits, unguarded / guarded", 3.3, 3.4),
                at_most("mean latency, added", 0.3),
            ),
            measure=measure_guard,
            data=(SHAREGPT,),
            remark="A request's longest wait is the longest of its waits for the first or another token; "
            "ours is the "
            "mean over requests.",
        ),
    ),
)
