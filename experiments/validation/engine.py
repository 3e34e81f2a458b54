"""`servegym validate engine`: a real engine's request log against the simulator under the same arguments."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import CPU_OVERHEAD_S, kv_capacity_blocks
from servegym.costmodels.iterations.measured_layers import average_decode_skew, compile_from_layer_profile
from servegym.costmodels.kernels.engine_log import EngineLog, read_engine_log
from servegym.costmodels.kernels.llmservingsim import LayerProfile, read_layer_profile
from servegym.costmodels.specs import gpu_spec
from servegym.envs.metrics import tpot_s
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.workloads import Workload

MEMORY_FRACTION = 0.9
"""vLLM's default `gpu_memory_utilization`, where a log does not say."""

PEER = {"tpot_mean_error": -0.010, "e2e_mean_error": -0.018, "ttft_mean_error": -0.040}
"""What LLMServingSim 2 reports for its run of Llama-3.1-8B on one RTX PRO 6000 (docs/validation.md there)."""


def validate_engine(log: str, profile: str | None = None) -> dict[str, Any]:
    """Replays the requests of run folder `log`; errors are simulated mean over measured mean, minus 1.

    `profile`: folder of the layer profile; without, the one of the log's GPU and model beside it in
    LLMServingSim's layout. Nothing is fitted to the log: the CPU overhead of a step comes from another
    engine and GPU, the skew of decodes from the profile, the KV blocks from the GPU's memory.
    """
    run = read_engine_log(log)
    tensor_parallel = int(run.arguments.get("tensor_parallel_size", 1))
    layers = read_layer_profile(profile or _profile_beside(Path(log), run.model), tensor_parallel)
    skew = 1.0 if layers.skew is None else average_decode_skew(layers.skew)
    engine = _engine(run, layers)
    cost = compile_from_layer_profile(
        layers,
        num_layers=layers.model.num_layers,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        cpu_overhead_s=CPU_OVERHEAD_S,
        decode_skew=skew,
    )
    workload = Workload(
        "engine log", run.arrival_s, run.input_tokens.astype(np.int32), run.output_tokens.astype(np.int32)
    )
    results = simulate(workload, make_router("round_robin"), num_replicas=1, engine=engine, cost=cost)
    measured, simulated = _measured(run), _simulated(results)
    return {
        "target": "engine",
        "log": log,
        "model": run.model,
        "software": run.software,
        "device": layers.device,
        "requests": len(run),
        **{f"{key}_mean_error": _error(simulated[key], measured[key], np.mean) for key in measured},
        "measured_mean_s": {key: float(np.nanmean(values)) for key, values in measured.items()},
        "simulated_mean_s": {key: float(np.nanmean(values)) for key, values in simulated.items()},
        "median_error": {key: _error(simulated[key], measured[key], np.median) for key in measured},
        "p99_error": {key: _error(simulated[key], measured[key], _p99) for key in measured},
        "makespan_error": float(results.finish_s.max() / (run.queued_s + run.latency_s).max() - 1),
        "cpu_overhead_s": CPU_OVERHEAD_S,
        "decode_skew": skew,
        "num_kv_blocks": engine.num_kv_blocks,
        "peer_errors": PEER,
    }


def show(answer: dict[str, Any]) -> None:
    """Prints means, errors and what they rest on."""
    console = Console(soft_wrap=True)
    table = Table(
        "", "measured", "simulated", "error of mean", "of median", "of p99", "LLMServingSim 2",
        title=f"{answer['requests']} requests, {answer['model']}, {answer['software']}, {answer['device']}",
    )  # fmt: skip
    for key, label in (("tpot", "TPOT"), ("e2e", "end to end"), ("ttft", "TTFT")):
        table.add_row(
            label,
            *(f"{1e3 * answer[f'{side}_mean_s'][key]:,.2f} ms" for side in ("measured", "simulated")),
            f"{answer[f'{key}_mean_error']:+.1%}",
            *(f"{answer[f'{which}_error'][key]:+.1%}" for which in ("median", "p99")),
            f"{answer['peer_errors'][f'{key}_mean_error']:+.1%}",
        )
    console.print(table)
    console.print(
        f"Not from this run: {1e3 * answer['cpu_overhead_s']:.1f} ms of CPU a step (vLLM 0.11, Llama-2-7B, "
        f"batch 1, H100), decode skew {answer['decode_skew']:.3f} (the profile), "
        f"{answer['num_kv_blocks']:,} KV blocks (memory of the GPU at {MEMORY_FRACTION}). Not simulated: "
        "scheduling one iteration ahead, so the TTFT of a request that does not queue is one iteration short."
    )


def _engine(run: EngineLog, layers: LayerProfile) -> Engine:
    for key in ("max_num_seqs", "max_num_batched_tokens"):
        if not isinstance(run.arguments.get(key), int):
            raise InputError(f"meta.json: engine_kwargs.{key} is {run.arguments.get(key)}, must be a number")
    blocks = kv_capacity_blocks(
        layers.model,
        gpu_spec(layers.device),
        tensor_parallel=layers.tensor_parallel,
        memory_fraction=float(run.arguments.get("gpu_memory_utilization") or MEMORY_FRACTION),
    )
    return Engine(run.arguments["max_num_batched_tokens"], run.arguments["max_num_seqs"], blocks)


def _profile_beside(log: Path, model: str) -> str:
    """`profiler/perf/GPU/MODEL/bf16` of the tree in which the log is `bench/examples/GPU/NAME/vllm`."""
    path = log.resolve()
    if len(path.parents) >= 5:
        folder = path.parents[4] / "profiler" / "perf" / path.parents[1].name / model / "bf16"
        if folder.is_dir():
            return str(folder)
    raise InputError(f"{log}: no layer profile beside it; name one with profile=FOLDER")


def _measured(run: EngineLog) -> dict[str, np.ndarray]:
    """As the client sees it, from its arrival on."""
    to_queue_s = run.queued_s - run.arrival_s
    return {"tpot": run.tpot_s, "e2e": run.latency_s + to_queue_s, "ttft": run.ttft_s + to_queue_s}


def _simulated(results: Results) -> dict[str, np.ndarray]:
    return {
        "tpot": tpot_s(results),
        "e2e": results.finish_s - results.arrival_s,
        "ttft": results.first_token_s - results.arrival_s,
    }


def _p99(values: np.ndarray) -> float:
    return float(np.percentile(values, 99))


def _error(simulated: np.ndarray, measured: np.ndarray, summary: Any) -> float:
    """Signed ratio of a summary over the requests that have the figure."""
    known = np.isfinite(simulated) & np.isfinite(measured)
    return float(summary(simulated[known]) / summary(measured[known]) - 1)
