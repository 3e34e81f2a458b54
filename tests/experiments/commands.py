"""Runs the console command inside the test process, on scenarios small enough for plain Python."""

import json
from pathlib import Path
from typing import Any

import pytest

from servegym.experiments.cli import main

FEW_REQUESTS = ("scenario.workload.test_s=20", "scenario.episode.requests=32")  # about 100 test requests

FEW_LONG_REQUESTS = ("scenario.workload.requests=40", "scenario.episode.requests=20")

SMALL_SCENARIO = (
    "scenario=generated_8xh100",
    "scenario.fleet.replicas=2",
    "scenario.workload.rate_rps=30",
    *FEW_REQUESTS,
)

SMALL_SCENARIO_OF = {
    "servegym/Routing-v0": SMALL_SCENARIO,
    "servegym/Batching-v0": (
        "scenario=generated_1xh100",
        "scenario.engine.max_num_seqs=4",
        "scenario.workload.rate_rps=10",
        *FEW_REQUESTS,
    ),
    "servegym/TwoLevel-v0": (*SMALL_SCENARIO, "scenario.engine.max_num_seqs=4"),
    "servegym/DynamicBatching-v0": (
        "scenario=inoue_v100",
        "scenario.max_batch=8",
        "scenario.rate_rps=800",
        "scenario.requests=32",
    ),
    "servegym/DeferredBatching-v0": (
        "scenario=resnet50_8gpu",
        "scenario.fleet.num_gpus=2",
        "scenario.workload.rate_rps=1000",
        "scenario.workload.requests=200",
        "scenario.episode.requests=32",
    ),
    "servegym/ElasticSequenceParallel-v0": (
        "scenario=zipf_1_2_8a800",
        "scenario.fleet.instances=2",
        "scenario.workload.requests=60",
        "scenario.episode.requests=16",
    ),
}
"""A scenario of each environment that can be learnt."""

SHORT_RUN = ("agent.hidden=8", "agent.batch_size=32", "num_envs=4", "total_steps=256", "checkpoint_steps=64")

SHORT_TRAINING = (*SHORT_RUN, "agent.imitate_steps=0", "agent.n_steps=16")
"""Of PPO."""

SHORT_TRAINING_OF = {
    "ppo": SHORT_TRAINING,
    "discrete_sac": (*SHORT_RUN, "agent.warm_up=64"),
    "double_dqn": (*SHORT_RUN, "agent.warm_up=64"),
    "counterfactual": (*SHORT_RUN, "agent.n_steps=16", "agent.gradient_steps=2", "agent.rounds=2"),
    "improper": (*(word for word in SHORT_RUN if "batch_size" not in word), "agent.n_steps=16"),
}
"""By the name of the algorithm."""

SMALL_TRAINING = (*SMALL_SCENARIO, "agent=ppo_gnn", *SHORT_TRAINING)

SHORT_BENCH = (
    "requests=200",
    "steps=20",
    "passes=1",
    "replicas=[1,2]",
    "num_envs=4",
    "processes=1",
    "first_call=false",
    "policy_requests=100",
    "batch_requests=50",
    "elastic_requests=50",
    "updates=1",
)


def answer_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What a command prints with --json, which must be one object on one line and nothing else."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    answer = json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert isinstance(answer, dict)
    return answer


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command says about bad input; it must have ended with 2 and written nothing."""
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    capsys.readouterr()
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("servegym: error: ")
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n")
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    return captured.err.removeprefix("servegym: error: ").strip()
