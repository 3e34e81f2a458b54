"""Folders as commands write them, with made-up content."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from servegym.experiments.reporting.runs import Run, find_runs

ORIGIN = {
    "versions": {"servegym": "0.1.0", "numpy": "2.4"},
    "platform": "Linux-6",
    "cpu": "A CPU",
    "cpu_cores": 2,
    "git_commit": "0123456789abcdef",
    "git_dirty": False,
}


def write_simulation(
    folder: Path,
    router: str = "jsq",
    seed: int = 0,
    rate_rps: float = 10.0,
    slowness: float = 1.0,
    scenario: str = "made_up",
    **changed: Any,
) -> Path:
    """100 requests, `rate_rps` a second; request i has a TTFT of i + 1 ms times `slowness`, latency 10 s."""
    folder.mkdir(parents=True)
    ttft_s = np.arange(1, 101) * 1e-3 * slowness
    latency_s = np.full(100, 10.0)
    tpot_s = pa.array(np.full(100, 0.02), mask=np.arange(100) == 0)  # one output token: none
    columns = {
        "arrival_s": np.arange(100) / rate_rps,
        "ttft_s": ttft_s,
        "tpot_s": tpot_s,
        "latency_s": latency_s,
    }
    pq.write_table(pa.table(columns), folder / "requests.parquet")
    metrics = {
        "mean_ttft_s": ttft_s.mean() * (1 + 0.01 * seed),
        "p99_ttft_s": ttft_s[-1],
        "mean_latency_s": 10.0,
    }
    answer = {"scenario": scenario, "seed": seed, "metrics": metrics, "versions": ORIGIN["versions"]}
    (folder / "metrics.json").write_text(json.dumps(answer))
    config = {
        "scenario": {"name": scenario, "workload": {"rate_rps": rate_rps}, "fleet": {"replicas": 2}},
        "router": {"name": router},
        "scheduler": None,
        "seed": seed,
        "out": str(folder),
        **changed,
    }
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    (folder / "command.txt").write_text(
        f"servegym simulate scenario={scenario} router={router} seed={seed}\n"
    )
    (folder / "provenance.json").write_text(json.dumps(ORIGIN))
    return folder


def write_training(
    folder: Path,
    seed: int = 0,
    network: str = "mlp",
    steps: tuple[int, ...] = (100, 200, 300),
    slope: float = 1.0,
) -> Path:
    """A run whose mean return is `slope` times the number of decisions."""
    folder.mkdir(parents=True)
    config = {
        "scenario": {"name": "made_up"},
        "suite": None,
        "agent": {"algorithm": "ppo", "network": network},
        "seed": seed,
        "run_dir": str(folder),
    }
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    header = "steps,elapsed_s,episodes,mean_return,mean_ttft_s\n"
    rows = "".join(f"{step},1.0,2,{slope * step},0.5\n" for step in steps)
    (folder / "training.csv").write_text(header + rows)
    (folder / "provenance.json").write_text(json.dumps({**ORIGIN, "scenario": "made_up", "seed": seed}))
    (folder / "command.txt").write_text(f"servegym train seed={seed}\n")
    (folder / "policy.pt").write_text("weights")
    (folder / "finished.json").write_text('{"steps": 300}')
    return folder


def write_evaluation(folder: Path, values: dict[str, list[float]], baseline: str = "round_robin") -> Path:
    """Of each policy its mean latency for each seed; other metrics are the same for all."""
    folder.mkdir(parents=True)
    same = (
        "mean_ttft_s",
        "p99_ttft_s",
        "mean_tpot_s",
        "p99_latency_s",
        "slo_attainment",
        "preemptions_per_request",
    )
    rows = [("policy", "seed", "metric", "value")]
    for policy, latencies in values.items():
        for seed, latency_s in enumerate(latencies):
            rows.append((policy, seed, "mean_latency_s", latency_s))
            rows += [(policy, seed, metric, 1.0) for metric in same]
    _write(folder / "results.csv", rows)
    summary = [("policy", "metric", "against"), *((name, "mean_latency_s", baseline) for name in values)]
    _write(folder / "summary.csv", [summary[0], *(row for row in summary[1:] if row[0] != baseline)])
    _write(folder / "comparisons.csv", [("policy", "against", "metric")])
    (folder / "evaluation.json").write_text(json.dumps({"scenario": "made_up", "seeds": [0, 1]}))
    return folder


def write_answer(folder: Path, name: str, answer: dict[str, Any]) -> Path:
    """A folder with one answer."""
    folder.mkdir(parents=True)
    (folder / name).write_text(json.dumps(answer))
    return folder


def the_runs(*folders: Path) -> list[Run]:
    """The runs in folders."""
    return find_runs([str(folder) for folder in folders])


def _write(path: Path, rows: list[Any]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
