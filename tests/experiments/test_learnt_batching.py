"""PPO finds the optimal policy of a batching server: a table known exactly."""

from pathlib import Path

import pytest

from servegym.agents import smdp
from servegym.envs.dynamic_batching.scenario import load_dynamic_batching
from servegym.experiments.evaluation.dynamic_batching import table_of
from servegym.experiments.run_directory import load_run_policy
from tests.experiments.commands import answer_of

SCENARIO = ("scenario.max_batch=16", "scenario.rate_rps=1000", "scenario.requests=256")


@pytest.mark.slow
@pytest.mark.compiled
def test_ppo_comes_within_one_percent_of_the_optimum(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    answer_of(
        capsys,
        "train",
        "scenario=inoue_v100",
        *SCENARIO,
        "agent=ppo_queue",
        "total_steps=120000",
        "run_dir=run",
    )
    scenario = load_dynamic_batching("inoue_v100", SCENARIO)
    policy, _ = load_run_policy(folder / "run")
    found = smdp.solve(scenario)
    cost = smdp.evaluate(scenario, table_of(policy, scenario)).cost
    assert found.control_limit is not None and found.control_limit > 1
    assert (
        smdp.evaluate(scenario, smdp.greedy(scenario)).cost > 1.1 * found.cost
    )  # there is something to learn
    assert cost < 1.01 * found.cost
