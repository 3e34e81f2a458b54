"""Lengths made from means: the committed file is what the script writes, and has those means."""

from importlib.resources import files

import numpy as np
import pytest

from servegym.envs.scenario import load_scenario
from servegym.envs.workloads import load_fitted
from servegym.experiments.fits.fit_five_tasks import TASKS, fit


def test_the_committed_lengths_have_the_means_of_the_tasks() -> None:
    committed = (files("servegym.envs.workloads") / "fitted" / "five_tasks.json").read_text()
    assert committed == fit()
    lengths = load_fitted("five_tasks").lengths
    prompts = np.trapezoid(lengths.prompt_quantiles, lengths.levels, axis=1)
    outputs = np.trapezoid(lengths.output_quantiles, lengths.levels, axis=1)
    assert list(zip(prompts, outputs, strict=True)) == [
        (pytest.approx(prompt, rel=0.02), pytest.approx(output, rel=0.02))
        for prompt, output in TASKS.values()
    ]


def test_a_test_workload_has_the_papers_rate_and_number() -> None:
    workload = load_scenario("five_tasks_4xv100").traffic.test_workload(0)
    assert workload.num_requests == 2000
    assert workload.num_requests / workload.arrival_s[-1] == pytest.approx(20.0, rel=0.1)
    assert workload.output_tokens.mean() == pytest.approx(
        np.mean([mean for _, mean in TASKS.values()]), rel=0.1
    )
