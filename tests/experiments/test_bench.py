"""`servegym bench`: its keys, and the workload it measures with."""

from pathlib import Path

import numpy as np
import pytest

from servegym.envs.workloads import Workload
from servegym.experiments.bench import repeated
from servegym.experiments.cli import main
from tests.experiments.commands import FEW_REQUESTS, SHORT_BENCH, answer_of


def test_simulator_is_measured_by_number_of_replicas(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    answer = answer_of(capsys, "bench", "simulator", *SHORT_BENCH, *FEW_REQUESTS, "replicas=[1,8]")
    assert set(answer["requests_per_s"]) == {"1", "8"}
    assert set(answer["least_outstanding_tokens_requests_per_s"]) == {"8"}
    assert all(rate > 0 for rate in answer["requests_per_s"].values())
    assert answer["workload_source"].startswith("generator")


def test_environments_are_measured_by_name(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "bench", "env", *SHORT_BENCH, *FEW_REQUESTS)
    assert set(answer["decisions_per_s"]) == {"servegym/Routing-v0"}
    assert answer["decisions_per_s"]["servegym/Routing-v0"] > 0
    assert (answer["num_envs"], answer["replicas"]) == (4, 8)


def test_table_names_what_was_measured(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["bench", "env", *SHORT_BENCH, *FEW_REQUESTS]) == 0
    assert "servegym/Routing-v0" in capsys.readouterr().out
    assert main(["bench", "simulator", *SHORT_BENCH, *FEW_REQUESTS]) == 0
    assert "round_robin" in capsys.readouterr().out


def test_repeated_workload_keeps_gaps_and_lengths_and_has_the_rate() -> None:
    once = Workload("three", np.array([1.0, 2.0, 5.0]), np.array([10, 20, 30]), np.array([1, 2, 3]))
    seven = repeated(once, 7, rate_rps=10.0)
    assert seven.prompt_tokens.tolist() == [10, 20, 30, 10, 20, 30, 10]
    assert seven.output_tokens.tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert seven.arrival_s[0] == 0.0
    assert seven.arrival_s[-1] == pytest.approx(0.7)
    gaps = np.diff(seven.arrival_s)
    assert gaps[[1, 4]] / gaps[[0, 3]] == pytest.approx([3.0, 3.0])
    assert (gaps > 0).all()
