"""The managers and their naive forms, written apart, agree on every time of every request."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.agents.elastic_managers import make_elastic_manager
from servegym.envs.sim.elastic.simulate import simulate_elastic
from tests.conftest import examples
from tests.envs.sim.elastic.random_cases import GRID_S, MAX_GROUP, Case, assert_same, random_case
from tests.reference.elastic.managers.fixed_parallelism import FixedParallelism
from tests.reference.elastic.managers.loongserve import LoongServe
from tests.reference.elastic.results import ElasticResults
from tests.reference.elastic.simulate import simulate


def limits(case: Case) -> dict[str, Any]:
    """Of both managers."""
    pool = case.fleet.kv_tokens
    return {
        "max_requests": int(case.rng.choice([1, 5, MAX_GROUP, MAX_GROUP])),
        "max_tokens": int(case.rng.choice([pool, 3 * pool, 100 * pool])),
        "max_wait": int(case.rng.choice([0, 1, 3, 10])),
    }


def loongserve(case: Case) -> dict[str, Any]:
    """Parameters under which decodes and prefills are worth about as much as each other."""
    rng = case.rng
    return limits(case) | {
        "max_prefill_s": float(rng.choice([5, 20, 5000])) * GRID_S,
        "decoding_s": float(rng.choice([0.01, 0.1, 3])) * GRID_S,
        "master_batch": int(rng.choice([1, 2, 5, 128])),
        "out_of_order": int(rng.choice([0, 1, 4, 64])),
        "scale_up": bool(rng.random() < 0.7),
        "pruned": bool(rng.random() < 0.25),
        "one_batch": bool(rng.random() < 0.25),
    }


def fixed_parallelism(case: Case) -> dict[str, Any]:
    """Any degree that divides the fleet."""
    instances = case.fleet.num_instances
    degrees = [degree for degree in range(1, instances + 1) if instances % degree == 0]
    return limits(case) | {"degree": int(case.rng.choice(degrees))}


MANAGERS = {
    "loongserve": (loongserve, LoongServe),
    "fixed_parallelism": (fixed_parallelism, FixedParallelism),
}


def check(name: str, seed: int) -> ElasticResults:
    case = random_case(seed)
    draw, reference = MANAGERS[name]
    parameters = draw(case)
    slow = simulate(case.fleet, case.workload, reference(**parameters))
    assert_same(simulate_elastic(case.fleet, case.workload, make_elastic_manager(name, **parameters)), slow)
    return slow


@pytest.mark.parametrize("name", MANAGERS)
@given(seed=st.integers(0, 2**63 - 1))
@examples(150)
def test_equal_on_random_cases(name: str, seed: int) -> None:
    """Times, outcomes, and how often what was done."""
    check(name, seed)


def test_random_cases_are_worth_comparing() -> None:
    """Pools run full, groups grow and move together, requests are too long."""
    cases = [check("loongserve", seed) for seed in range(60)]
    for name in ("scale_ups", "pauses", "migrations"):
        assert sum(getattr(results, name) for results in cases) > 10, name
    assert sum(results.outcome.count("rejected") for results in cases) > 20
    assert all("unserved" not in results.outcome for results in cases)
    in_parts = [check("fixed_parallelism", seed) for seed in range(60)]
    assert sum(results.pauses for results in in_parts) > 0
    assert np.mean([results.prefills for results in in_parts]) > 5
