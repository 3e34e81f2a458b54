"""SAL, the token-aware load balancer of Kossmann et al., against the balancers it replaces.

The paper's figures were not at hand, only what it says of them; SAL itself is our reading of it. So the
rule is that it is ahead of the best of the others on the production trace, seed by seed.
"""

import functools

from servegym.envs.metrics import summarise
from servegym.envs.scenario import Scenario, load_scenario
from servegym.experiments.claims.claim import Claim, Paper, at_most
from servegym.experiments.evaluation.contenders import configured_router

TRACE = "traces/azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz"
OTHERS = ("random", "round_robin", "power_of_two", "jsq", "lowest_kv_use")
NORMAL_RPS, OVERLOAD_RPS = 160.0, 240.0
"""Of the training part: the scenario's own, and one and a half times that, more than the fleet can serve."""
SEEDS = range(5)


@functools.cache
def scenario(rate_rps: float) -> Scenario:
    """8 H100s under the conversation trace."""
    return load_scenario("azure_conv_8xh100", (f"scenario.workload.rate_rps={rate_rps}",))


@functools.cache
def summary(name: str, rate_rps: float, seed: int) -> dict[str, float]:
    """Of a router on a test workload."""
    here = scenario(rate_rps)
    return summarise(
        here.simulate(here.traffic.test_workload(seed), configured_router(name, here), seed=seed)
    )


def against_best(metric: str, rate_rps: float) -> list[float]:
    """SAL's metric less the best of the others, as a share of that; less is better."""
    changes = []
    for seed in SEEDS:
        best = min(summary(name, rate_rps, seed)[metric] for name in OTHERS)
        changes.append(summary("sal", rate_rps, seed)[metric] / best - 1)
    return changes


def lost_throughput() -> list[float]:
    """How much fewer tokens SAL makes a second than the best of the others; one value a seed."""
    metric = "output_tokens_per_s"
    lost = []
    for seed in SEEDS:
        best = max(summary(name, OVERLOAD_RPS, seed)[metric] for name in OTHERS)
        lost.append(1 - summary("sal", OVERLOAD_RPS, seed)[metric] / best)
    return lost


WORKLOAD = "Azure's conversation trace of 2023, test part, 8 H100s (roofline), Llama-3.1-8B, vLLM V1, 5 seeds"
RIVALS = "the best of random, round robin, power of two, JSQ and lowest KV use"

PAPER = Paper(
    "SAL",
    'Kossmann et al., "Is the GPU Half-Empty or Half-Full?", arXiv 2410.17840, its summary.',
    [
        Claim(
            "ttft",
            "A lower time to first token than other load balancers, with few preemptions.",
            f"{WORKLOAD}; 160/s in the training part; against {RIVALS}; few preemptions: one in 100 "
            "requests (ours)",
            [
                at_most("mean TTFT against the best other", 0.0),
                at_most("P99 TTFT against the best other", 0.0),
                at_most("preemptions a request", 0.01),
            ],
            lambda: {
                "mean TTFT against the best other": against_best("mean_ttft_s", NORMAL_RPS),
                "P99 TTFT against the best other": against_best("p99_ttft_s", NORMAL_RPS),
                "preemptions a request": [
                    summary("sal", NORMAL_RPS, seed)["preemptions_per_request"] for seed in SEEDS
                ],
            },
            data=[TRACE],
            remark="No figure of the paper was at hand: the rule is the order alone.",
        ),
        Claim(
            "overload",
            "A higher throughput, and a lower time to first token.",
            f"{WORKLOAD}; 240/s in the training part, an overload; against {RIVALS}",
            [
                at_most("throughput lost against the best other", 0.0),
                at_most("mean TTFT against the best other", 0.0),
            ],
            lambda: {
                "throughput lost against the best other": lost_throughput(),
                "mean TTFT against the best other": against_best("mean_ttft_s", OVERLOAD_RPS),
            },
            data=[TRACE],
        ),
    ],
)
"""SAL's claims."""
