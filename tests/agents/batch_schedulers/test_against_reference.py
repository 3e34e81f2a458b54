"""Every scheduler of batch serving decides as the naive reference does, written apart from it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.agents.batch_schedulers import BATCH_SCHEDULERS, make_batch_scheduler
from servegym.agents.batch_schedulers.symphony import CHOICES, CONDITIONS, DROPS
from servegym.envs.sim.batch.cluster import SYMPHONY_DELAYS, BatchCluster
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.state import DROPPED, GOOD, LATE
from servegym.envs.workloads.batch_workload import BatchWorkload
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
            "window_s": case.seconds(0.05, 0.2),
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
    if name == "nexus":  # its defaults are longer than these cases
        return parameters
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


@pytest.mark.parametrize(
    "name, parameters",
    [(name, {}) for name in sorted(BATCH_SCHEDULERS)]
    + [("symphony", {"condition": condition}) for condition in CONDITIONS[1:]]
    + [("symphony", {"drop": "timeout"}), ("symphony", {"gpu": "lowest_number"})],
)
def test_equal_on_a_busy_fleet(name: str, parameters: dict[str, Any]) -> None:
    """Six models on five GPUs for 15 s, longer than rates are remembered, from half load to overload."""
    rng = np.random.default_rng(5)
    models = tuple(
        ServedModel(f"m{i}", tuple((0.8 * i + 2) * 1e-3 * (b + 5) for b in range(1, 17)), 0.1 + 0.02 * i)
        for i in range(6)
    )
    phases = [rng.exponential(1 / rate, int(5 * rate)) for rate in (100, 350, 900)]
    gaps = np.concatenate(phases)
    workload = BatchWorkload("busy", np.cumsum(gaps), rng.integers(0, 6, len(gaps)))
    case = Case(rng, False, BatchCluster(models, 5, SYMPHONY_DELAYS), workload, [])
    fast, _ = run_both(case, make_batch_scheduler(name, **parameters), name, parameters)
    assert 0.01 < fast.bad_share < 0.99
