"""The fast simulator of fleets and the naive reference, written apart, agree on everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import OUTCOMES
from tests.envs.sim.llm.cluster.cases import FleetCase, random_fleet
from tests.reference.simulate import FleetResult
from tests.reference.simulate import simulate_fleet as simulate_reference

STEPS = {
    "sessions": {"dispatch", "sessions", "cancel"},
    "failures": {"dispatch", "sessions", "cancel", "failures", "scaling"},
    "stale": {"dispatch", "sessions", "cancel", "failures", "scaling", "stale"},
    "roles": {"dispatch", "sessions", "cancel", "failures", "scaling", "stale", "roles"},
    "migration": {"dispatch", "sessions", "cancel", "failures", "scaling", "stale", "roles", "migration"},
}
TIMES = ("scheduled_s", "first_token_s", "finish_s", "cancelled_s")
COUNTS = ("replica", "preemptions", "retries", "migrations", "hit_tokens")


def stood_still(slow: FleetResult) -> bool:
    """Whether a replica preempted everybody, so that its iteration was empty.

    The specification does not say when the next one is tried: the reference waits for the next instant of
    the fleet, whatever happens then, the fast simulator for one that concerns the replica. It takes KV kept
    on a prefill replica for somebody who has left.
    """
    for preemptions, iterations in zip(slow.preempted, slow.iterations, strict=True):
        starts_s = {iteration.start_s for iteration in iterations}
        if any(preemption.time_s not in starts_s for preemption in preemptions):
            return True
    return False


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

    fast = simulate_fleet(case.workload, Router("drawn", watch), case.fast_plan(seen), debug=True)
    slow = simulate_reference(case.workload, case.choose(), **case.reference_plan(seen_slowly), check=False)
    if stood_still(slow):
        return fast
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
    np.testing.assert_equal(len(seen), len(seen_slowly))
    for i, (rows, rows_slowly) in enumerate(zip(seen, seen_slowly, strict=True)):
        np.testing.assert_allclose(rows, rows_slowly, rtol=1e-9, atol=1e-9, err_msg=f"rebalancing {i}")
    return fast


@pytest.mark.parametrize("features", STEPS)
@given(seed=st.integers(0, 2**63 - 1))
@settings(max_examples=100, deadline=None)
def test_equal_on_random_fleets(features: str, seed: int) -> None:
    """Results and everything a router sees, with more and more features mixed, invariants checked."""
    check_equal(random_fleet(seed, frozenset(STEPS[features])))


@given(seed=st.integers(0, 2**63 - 1))
@settings(max_examples=2000, deadline=None)
@pytest.mark.slow
@pytest.mark.compiled
def test_equal_on_many_random_fleets(seed: int) -> None:
    """The same with all features, many times."""
    check_equal(random_fleet(seed, frozenset(STEPS["roles"])))


def test_random_fleets_exercise_the_features() -> None:
    """A fair share of the cases above retry, cancel, lose, preempt, hit and hand over."""
    counts = np.zeros(5)
    for seed in range(60):
        results = check_equal(random_fleet(seed, frozenset(STEPS["roles"])))
        outcomes = [np.sum(results.outcome == OUTCOMES.index(name)) for name in ("cancelled", "lost")]
        sums = [results.retries.sum(), results.preemptions.sum(), results.hit_tokens.sum()]
        counts += [number > 0 for number in [*outcomes, *sums]]
    assert (counts >= 5).all(), counts
