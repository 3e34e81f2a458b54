"""Every scheduler of batch serving decides as the naive reference does, written apart from it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.agents.batch_schedulers import BATCH_SCHEDULERS, make_batch_scheduler
from servegym.agents.batch_schedulers.symphony import CHOICES, CONDITIONS, DROPS
from servegym.envs.sim.batch.state import DROPPED, GOOD, LATE
from tests.conftest import examples
from tests.envs.sim.batch.random_cases import Case, random_case, run_both

SEEDS = st.integers(0, 2**63 - 1)


def random_parameters(name: str, case: Case) -> dict[str, Any]:
    """Any parameter of a scheduler; half of the time some are left to their defaults."""
    rng = case.rng
    parameters: dict[str, Any] = {
        "symphony": lambda: {
            "condition": str(rng.choice(CONDITIONS)),
            "timeout_share": float(rng.choice([0.0, 0.25, 1.0])),
            "drop": str(rng.choice(DROPS)),
            "gpu": str(rng.choice(CHOICES)),
            "margin_s": float(rng.integers(2) * case.seconds(0.0005, 0.003)),
        },
        "clockwork": lambda: {
            "sizes": (1, *sorted(int(s) for s in rng.choice(np.arange(2, 9), 2, replace=False)))
        },
        "shepherd": lambda: {"preempt_ratio": float(rng.choice([1.1, 1.5, 2.0, 3.03]))},
        "nexus": lambda: {
            "epoch_s": float(rng.choice([0.05, 0.2])),
            "least_epoch_s": float(rng.choice([0.02, 0.05])),
            "beacon_s": case.seconds(0.005, 0.05),
            "window_s": case.seconds(0.02, 0.2),
        },
        "clipper": lambda: {
            "increase": float(rng.choice([0.5, 1.0, 2.0])),
            "backoff": float(rng.choice([0.5, 0.9])),
        },
        "tf_serving": lambda: {
            "max_batch": int(rng.integers(0, 6)),
            "timeout_s": float(rng.integers(2) * case.seconds(0.0, 0.02)),
        },
        "triton": lambda: {
            "preferred": tuple(
                sorted(int(s) for s in rng.choice(np.arange(1, 6), rng.integers(0, 3), replace=False))
            ),
            "max_queue_delay_s": float(rng.integers(2) * case.seconds(0.0, 0.02)),
            "max_batch": int(rng.integers(0, 8)),
        },
    }[name]()
    return {key: value for key, value in parameters.items() if rng.random() < 0.75}


def check(name: str, seed: int) -> Any:
    case = random_case(seed)
    parameters = random_parameters(name, case)
    fast, _ = run_both(case, make_batch_scheduler(name, **parameters), name, parameters)
    return fast


@pytest.mark.parametrize("name", sorted(BATCH_SCHEDULERS))
@given(seed=SEEDS)
@examples(400)
def test_equal_on_random_cases(name: str, seed: int) -> None:
    """Outcome, GPU, batch size, start and end of every request; sums; what an autoscaler sees."""
    check(name, seed)


@pytest.mark.parametrize("name", sorted(BATCH_SCHEDULERS))
def test_random_cases_are_worth_comparing(name: str) -> None:
    """They have requests of every outcome that the scheduler knows, in batches."""
    results = [check(name, seed) for seed in range(30)]
    outcomes = np.concatenate([result.outcome for result in results])
    expected = {GOOD, LATE, DROPPED} if name == "clipper" else {GOOD, LATE}
    if name not in ("clipper", "tf_serving", "triton"):
        expected = {GOOD, DROPPED}
    assert expected <= set(outcomes.tolist())
    assert max(result.batch_size.max() for result in results) > 2
    if name == "shepherd":
        assert sum(result.num_preempted for result in results) > 0
