"""Predictions of output lengths as views show them while tokens come."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.batching.env import BatchingEnv
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.decision_view import (
    ENGINE_COLUMNS,
    GENERATED_TOKENS,
    IS_DECODING,
    IS_WAITING,
    KNOWN_TOKENS,
    PREDICTED_OUTPUT_TOKENS,
)
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS
from servegym.envs.workloads import Workload

ENGINE = [name for name, _ in ENGINE_COLUMNS]


def decisions(refinement: str):
    """(engine, rows) at each decision of an episode of first come, first served, all requests visible."""
    scenario = load_scenario(
        "generated_8xh100",
        (
            "scenario.fleet.replicas=1",
            "scenario.workload.rate_rps=2",
            "scenario.workload.prediction_error=0.8",
            f"scenario.workload.prediction_refinement={refinement}",
            "scenario.episode.requests=60",
        ),
    )
    env = BatchingEnv(scenario)
    observation, _ = env.reset(seed=3)
    terminated = False
    while not terminated:
        engine, rows = observation["engine"], observation["requests"]
        if max(engine[ENGINE.index("waiting")], engine[ENGINE.index("running")]) <= NUM_ROWS // 2:
            yield engine.astype(np.float64), rows.astype(np.float64)
        action = 0 if env.action_masks()[0] else NUM_CHOICES - 1
        observation, _, terminated, _, _ = env.step(action)


def test_agents_see_refined_predictions_of_what_runs_and_first_ones_of_what_waits() -> None:
    """The total is the sum over the rows; the first prediction of a request changes once it decodes."""
    refined, plain = list(decisions("0.5")), list(decisions("null"))
    assert len(refined) == len(plain) > 60
    changed = 0
    for (engine, rows), (_, before) in zip(refined, plain, strict=True):
        present = rows[:, KNOWN_TOKENS] > 0
        remaining = (rows[:, PREDICTED_OUTPUT_TOKENS] - rows[:, GENERATED_TOKENS])[present]
        total = engine[ENGINE.index("predicted_remaining_tokens")]
        assert total == pytest.approx(max(0.0, remaining.sum()), rel=1e-5, abs=1e-2)
        decoding = rows[:, IS_DECODING] > 0
        assert (remaining[decoding[present]] >= 1 - 1e-3).all()
        differs = rows[:, PREDICTED_OUTPUT_TOKENS] != before[:, PREDICTED_OUTPUT_TOKENS]
        assert not differs[rows[:, IS_WAITING] > 0].any()
        changed += differs[decoding].sum()
    assert changed > 100


@pytest.mark.parametrize("refinement", [0.0, 1.5, -1.0])
def test_refinements_out_of_range_are_refused(refinement: float) -> None:
    """By the workload, and by the scenario under its own key."""
    with pytest.raises(InputError, match=r"prediction_refinement is .*allowed: in \(0, 1\]"):
        Workload("w", [0.0], [1], [1], predicted_output_tokens=[1], prediction_refinement=refinement)
    with pytest.raises(InputError, match=r"scenario.workload.prediction_refinement = .*null, or in \(0, 1\]"):
        load_scenario("generated_8xh100", (f"scenario.workload.prediction_refinement={refinement}",))


def test_refinement_needs_predictions() -> None:
    """There is nothing to refine without a predictor."""
    with pytest.raises(InputError, match="None without predicted_output_tokens"):
        Workload("w", [0.0], [1], [1], prediction_refinement=0.5)
    with pytest.raises(InputError, match="prediction_refinement = 0.5: must be null without a predictor"):
        load_scenario("generated_8xh100", ("scenario.workload.prediction_refinement=0.5",))
