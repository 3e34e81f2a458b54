"""`servegym validate peers`: two other simulators of vLLM on H100 against ours, on one made-up trace."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from servegym.agents.heuristics import make_router
from servegym.costmodels.iterations.compile import compile_iteration_cost
from servegym.costmodels.iterations.composer import compose_iteration_cost
from servegym.costmodels.specs import gpu_spec, model_spec
from servegym.envs.metrics import latency_s, tpot_s, ttft_s
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload
from servegym.experiments.validation.clocks import kernels_of

PEERS_MS = {
    "AISimulate": {"ttft": 28.8, "tpot": 6.92, "e2e": 1128.0},
    "BLIS": {"ttft": 30.8, "tpot": 7.18, "e2e": 1175.0},
}
"""Means over the same trace, engine, model and GPU: NVIDIA Dynamo's AISimulate (Rust) and inference-sim's
BLIS (Go), run by this project."""

ENGINE = Engine(max_num_batched_tokens=512, max_num_seqs=128, num_kv_blocks=7424)

NOTE = (
    "Peers may count a first token when the next iteration ends, as an engine that schedules ahead returns "
    "it; an engine's front end takes 1.9 ms a request (vLLM 0.11, inference-sim ground-truth traces). "
    "Neither is in servegym's figures, and what else is in the peers' is not known."
)


def trace() -> Workload:
    """1,000 requests, Poisson at 4 a second; lognormal prompts (16 to 3,000) and outputs (4 to 1,000)."""
    rng = np.random.default_rng(42)
    arrival_s = np.cumsum(rng.exponential(1 / 4.0, 1000))
    prompts, outputs = (
        np.clip(np.round(rng.lognormal(mean, 0.7, 1000)), low, high).astype(np.int32)
        for mean, low, high in ((6.0, 16, 3000), (4.8, 4, 1000))
    )
    return Workload("w1000_qps4", np.round(arrival_s - arrival_s[0], 6), prompts, outputs)


def validate_peers(clock: str = "measured", data: str | None = None) -> dict[str, Any]:
    """Means of ours, and the signed error of each against the nearer peer. `clock`, `data`: see `kernels_of`.

    `ttft_one_iteration_later_ms` is an explanation, no correction: the mean TTFT and the mean TPOT together.
    """
    model, gpu = model_spec("llama_3_1_8b"), gpu_spec("h100_sxm")
    limits: dict[str, Any] = {
        "max_num_batched_tokens": ENGINE.max_num_batched_tokens,
        "max_num_seqs": ENGINE.max_num_seqs,
        "max_kv_tokens": ENGINE.num_kv_blocks * ENGINE.block_size,
    }
    kernels = kernels_of(clock, gpu, data)
    if kernels is None:
        cost = compile_iteration_cost(model, gpu, **limits)
    else:
        cost = compose_iteration_cost(model, kernels, **limits)
    workload = trace()
    results = simulate(workload, make_router("round_robin"), num_replicas=1, engine=ENGINE, cost=cost)
    seconds = {"ttft": ttft_s(results), "tpot": tpot_s(results), "e2e": latency_s(results)}
    ours_ms = {key: 1e3 * float(np.nanmean(values)) for key, values in seconds.items()}
    errors = {}
    for key, ours in ours_ms.items():
        ratios = [ours / peer[key] - 1 for peer in PEERS_MS.values()]
        errors[key] = min(ratios, key=abs)
    return {
        "target": "peers",
        "clock": clock,
        "requests": workload.num_requests,
        "ours_ms": ours_ms,
        "peers_ms": PEERS_MS,
        "error_to_nearer": errors,
        "mean_prompt_tokens": float(workload.prompt_tokens.mean()),
        "ttft_one_iteration_later_ms": ours_ms["ttft"] + ours_ms["tpot"],
        "note": NOTE,
    }


def show(answer: dict[str, Any]) -> None:
    """Prints the three simulators side by side."""
    table = Table(
        "simulator", "TTFT", "TPOT", "end to end",
        title=f"Mean ms: Llama-3.1-8B on one H100, 4 requests/s, {answer['clock']} clock",
    )  # fmt: skip
    for name, means in (("servegym", answer["ours_ms"]), *answer["peers_ms"].items()):
        table.add_row(name, *(f"{means[key]:,.2f}" for key in ("ttft", "tpot", "e2e")))
    errors = answer["error_to_nearer"]
    table.add_row("to the nearer", *(f"{errors[key]:+.1%}" for key in ("ttft", "tpot", "e2e")))
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(
        f"Explanation, no correction: with every first token one iteration later, TTFT would be "
        f"{answer['ttft_one_iteration_later_ms']:.2f} ms. Mean prompt: "
        f"{answer['mean_prompt_tokens']:.1f} tokens."
    )
    console.print(answer["note"])
