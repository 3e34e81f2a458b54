"""`servegym bench peers`: the same trace through NVIDIA's Dynamo mocker (`pip install ai-dynamo-runtime`).

The mocker simulates vLLM engines behind a router in Rust. Trace, engine limits and router are the same; the
time of an iteration is not (each program has its own model of a GPU), so latencies are shown, not compared.
"""

import json
import tempfile
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from servegym.agents.heuristics import make_router
from servegym.envs.metrics import latency_s, ttft_s
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.workloads import Workload

TRACE_BLOCK_TOKENS = 512


def measure_mocker(
    scenario: Scenario, workload: Workload, num_replicas: int, passes: int
) -> dict[str, float]:
    """Requests per second of processor time and mean times of both, and the ratio of the rates.

    In each of `passes` the mocker runs once, and servegym over and over for the same time; best passes count.
    """
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.jsonl"
        write_mooncake(workload, trace)
        return _compare(scenario, workload, trace, num_replicas, passes)


def mocker_version() -> str | None:
    """Version of the installed mocker."""
    try:
        return version("ai-dynamo-runtime")
    except PackageNotFoundError:
        return None


def write_mooncake(workload: Workload, path: Path) -> None:
    """Writes a workload as a trace of Mooncake's form, in which no two prompts share a block."""
    next_id = 0
    with path.open("w") as file:
        for arrival_s, prompt, output in zip(
            workload.arrival_s.tolist(),
            workload.prompt_tokens.tolist(),
            workload.output_tokens.tolist(),
            strict=True,
        ):
            blocks = -(-prompt // TRACE_BLOCK_TOKENS)
            line = {
                "timestamp": arrival_s * 1000,
                "input_length": prompt,
                "output_length": output,
                "hash_ids": list(range(next_id, next_id + blocks)),
            }
            next_id += blocks
            file.write(json.dumps(line) + "\n")


def _compare(
    scenario: Scenario, workload: Workload, trace: Path, num_replicas: int, passes: int
) -> dict[str, float]:
    router = make_router("round_robin")

    def play() -> Results:
        return simulate(
            workload, router, num_replicas=num_replicas, engine=scenario.engine, cost=scenario.cost
        )

    play()  # compiles
    ours_s, theirs_s = [], []
    for _ in range(passes):
        started_s = time.process_time()
        summary = _replay(trace, scenario.engine, num_replicas)
        replayed_s = time.process_time()
        theirs_s.append(replayed_s - started_s)
        times = 0
        while time.process_time() - replayed_s < theirs_s[-1]:
            results = play()
            times += 1
        ours_s.append((time.process_time() - replayed_s) / times)
    if summary["completed_requests"] != workload.num_requests:
        raise RuntimeError(f"the mocker completed {summary['completed_requests']} requests")
    ours, theirs = min(ours_s), min(theirs_s)
    return {
        "requests_per_s": workload.num_requests / ours,
        "mocker_requests_per_s": workload.num_requests / theirs,
        "ratio": theirs / ours,
        "mean_ttft_s": float(ttft_s(results).mean()),
        "mocker_mean_ttft_s": summary["mean_ttft_ms"] / 1000,
        "mean_latency_s": float(latency_s(results).mean()),
        "mocker_mean_latency_s": summary["mean_e2e_latency_ms"] / 1000,
    }


def _replay(trace: Path, engine: Engine, num_replicas: int) -> dict[str, Any]:
    mocker = import_module("dynamo._core")
    report = mocker.run_mocker_trace_replay(
        [str(trace)],
        extra_engine_args={
            "engine": {
                "backend": "vllm",
                "num_gpu_blocks": engine.num_kv_blocks + 1,  # vLLM sets one aside
                "block_size": engine.block_size,
                "max_num_seqs": engine.max_num_seqs,
                "max_num_batched_tokens": engine.max_num_batched_tokens,
                "enable_prefix_caching": False,
            }
        },
        num_workers=num_replicas,
        router_mode="round_robin",
        trace_block_size=TRACE_BLOCK_TOKENS,
    )
    return dict(report.summary)
