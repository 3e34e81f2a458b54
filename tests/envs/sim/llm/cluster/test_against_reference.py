"""The fast simulator of fleets and the naive reference, written apart, agree on everything."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import OUTCOMES
from tests.conftest import examples
from tests.envs.sim.llm.cluster.cases import FleetCase, random_fleet
from tests.reference.simulate import simulate_fleet as simulate_reference

STEPS = {
    "sessions": {"dispatch", "sessions", "cancel"},
    "failures": {"dispatch", "sessions", "cancel", "failures", "scaling"},
    "stale": {"dispatch", "sessions", "cancel", "failures", "scaling", "stale"},
    "roles": {"dispatch", "sessions", "cancel", "failures", "scaling", "stale", "roles"},
    "migration": {"dispatch", "sessions", "cancel", "failures", "scaling", "stale", "roles", "migration"},
}
STEPS["control"] = STEPS["migration"] | {"control"}
TIMES = ("scheduled_s", "first_token_s", "finish_s", "cancelled_s")
COUNTS = ("replica", "preemptions", "retries", "migrations", "hit_tokens")


def check_equal(case: FleetCase):
    """Asserts equality of results and of everything that the router sees; returns the results."""
    views: list[np.ndarray] = []
    seen: list[np.ndarray] = []  # by the rebalancer
    seen_slowly: list[np.ndarray] = []
    abouts: list[np.ndarray] = []
    choose = case.choose()

    def watch(replicas, request, *_):
        views.append(replicas.copy())
        abouts.append(request.copy())
        return choose(replicas)

    fast = simulate_fleet(
        case.workload, Router("drawn", watch), case.fast_plan(seen), ranking=case.ranking, debug=True
    )
    plan = case.reference_plan(seen_slowly)
    slow = simulate_reference(case.workload, case.choose(), **plan, ranking=case.ranking, check=False)
    for name in TIMES:
        np.testing.assert_allclose(
            getattr(fast, name), getattr(slow, name), rtol=1e-9, atol=1e-12, err_msg=name
        )
    for name in COUNTS:
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name), err_msg=name)
    assert [OUTCOMES[i] for i in fast.outcome] == slow.outcome
    assert len(views) == len(slow.views)
    for i, (view, about) in enumerate(zip(views, abouts, strict=True)):
        np.testing.assert_allclose(view, slow.views[i], rtol=1e-9, atol=1e-9, err_msg=f"view {i}")
        np.testing.assert_allclose(about, slow.requests[i], rtol=1e-9, atol=1e-9)
    assert len(seen) == len(seen_slowly)
    for i, (rows, rows_slowly) in enumerate(zip(seen, seen_slowly, strict=True)):
        np.testing.assert_allclose(rows, rows_slowly, rtol=1e-9, atol=1e-9, err_msg=f"rebalancing {i}")
    return fast


@pytest.mark.parametrize("features", STEPS)
@given(seed=st.integers(0, 2**63 - 1))
@example(seed=2**63 - 2)  # a replica fails with an ordered queue and becomes an encoder
@examples(100)
def test_equal_on_random_fleets(features: str, seed: int) -> None:
    """Results and everything a router sees, with more and more features mixed, invariants checked."""
    check_equal(random_fleet(seed, frozenset(STEPS[features])))


@pytest.mark.parametrize("features", ["roles", "control"])
@given(seed=st.integers(0, 2**63 - 1))
@examples(2000)
@pytest.mark.slow
@pytest.mark.compiled
def test_equal_on_many_random_fleets(features: str, seed: int) -> None:
    """The same with all features, many times."""
    check_equal(random_fleet(seed, frozenset(STEPS[features])))


@pytest.mark.compiled
def test_random_fleets_exercise_the_features() -> None:
    """A fair share of the cases above retry, cancel, lose, preempt, hit and migrate."""
    counts = np.zeros(6)
    for seed in range(60):
        results = check_equal(random_fleet(seed, frozenset(STEPS["migration"])))
        outcomes = [np.sum(results.outcome == OUTCOMES.index(name)) for name in ("cancelled", "lost")]
        columns = (results.retries, results.preemptions, results.hit_tokens, results.migrations)
        counts += [number > 0 for number in [*outcomes, *(column.sum() for column in columns)]]
    assert (counts >= 5).all(), counts
