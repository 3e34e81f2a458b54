"""Intelligent Router: how little classical routers differ from round robin where it was trained.

Its own claims are of a trained router (up to 11 % less latency than round robin), which is not measured
here: its workload-mixing rule alone is not that router. What its comparison says of the others is an anchor
for any claim about a router on this workload.

Prompts and outputs of each task are geometric with the published means, and iterations last what the paper's
gradients say (3.2e-4 s a prompt token, 3.3e-5 s a context token, on V100s) beside the reading of the weights.
KV memory is that of a V100 of 32 GB, which the paper does not say.
"""

import numpy as np

from servegym.agents.heuristics import make_router
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.costmodels.specs import model_spec
from servegym.envs.metrics import latency_s
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload
from servegym.envs.workloads.lengths import GeometricLengths
from servegym.experiments.claims.claim import Claim, Paper, at_most

TASKS = ((29, 62), (30, 334), (212, 143), (125, 220), (26, 64))
"""Mean prompt and output of translation, Eli5, IMDb, SQuAD and WNUT."""
REPLICAS, RATE_RPS, REQUESTS = 4, 20.0, 2_000
SEEDS = range(10)
V100_BYTES, V100_BYTES_PER_S = 32e9, 900e9
MODEL = model_spec("llama_2_7b")
ENGINE = Engine(
    max_num_batched_tokens=2048,
    max_num_seqs=256,
    block_size=16,
    num_kv_blocks=int((0.9 * V100_BYTES - MODEL.weight_bytes) / (16 * MODEL.kv_bytes_per_token)),
)
COST = linear_iteration_cost(
    max_num_batched_tokens=ENGINE.max_num_batched_tokens,
    max_num_seqs=ENGINE.max_num_seqs,
    overhead_s=MODEL.weight_bytes / V100_BYTES_PER_S,
    per_token_s=3.2e-4,
    per_kv_token_s=3.3e-5,
)


def requests(seed: int) -> Workload:
    """Poisson arrivals, tasks at random; predictions of outputs are exact."""
    arrivals, tasks, lengths = (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(3))
    arrival_s = np.cumsum(arrivals.exponential(1 / RATE_RPS, REQUESTS))
    drawn = np.array([GeometricLengths(*task).sample(REQUESTS, lengths) for task in TASKS])
    prompts, outputs = drawn[tasks.integers(len(TASKS), size=REQUESTS), :, np.arange(REQUESTS)].T
    return Workload("five tasks", arrival_s, prompts, outputs, predicted_output_tokens=outputs)


def routers() -> dict[str, Router]:
    """Those that the paper compares with round robin."""
    return {
        "JSQ": make_router("jsq"),
        "max-capacity": make_router("max_capacity"),
        "min-min": make_router("min_min", token_budget=ENGINE.max_num_batched_tokens, block_size=16),
    }


def changes() -> dict[str, list[float]]:
    """How far each router's total latency is from that of round robin, up or down; one value a seed."""

    def total_s(workload: Workload, router: Router) -> float:
        results = simulate(workload, router, num_replicas=REPLICAS, engine=ENGINE, cost=COST)
        return float(latency_s(results).sum())

    found: dict[str, list[float]] = {name: [] for name in routers()}
    for seed in SEEDS:
        workload = requests(seed)
        plain_s = total_s(workload, make_router("round_robin"))
        for name, router in routers().items():
            found[name].append(abs(total_s(workload, router) / plain_s - 1))
    return found


PAPER = Paper(
    "Intelligent Router",
    'Jain et al., "Intelligent Router for LLM Workloads", arXiv 2408.13510: total latency against round '
    "robin -0.46 % (JSQ), -2.60 % (max-capacity), -1.50 % (min-min).",
    [
        Claim(
            "classical_routers",
            "Classical routers differ from round robin by less than 3 % on its workload.",
            "2,000 requests of five tasks at 20/s, 4 V100s with Llama-2-7B by the paper's costs; 10 seeds",
            [at_most(name, 0.03) for name in ("JSQ", "max-capacity", "min-min")],
            changes,
            remark="JSQ and min-min reproduce. Max-capacity is 7 % slower than round robin, not 2.6 % "
            "faster: by the paper's costs the four GPUs are overloaded (a request takes about 220 "
            "s), memory is full on all, and what is free at one moment says little; replicas get "
            "from 16 to 37 % of the requests.",
        )
    ],
)
"""Its anchor."""
