"""Running whole workloads: limits, errors, and the invariants' own alarm."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.fleet import advance, submit
from servegym.envs.sim.llm.invariants import check_replica
from servegym.envs.sim.llm.router import Router, next_uniform, random_state
from servegym.envs.sim.llm.setup import ReplicaSpec, fleet_with
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload

ENGINE = Engine(max_num_batched_tokens=64, max_num_seqs=8, num_kv_blocks=100)
COST = linear_iteration_cost(max_num_batched_tokens=64, max_num_seqs=8, overhead_s=0.01, per_token_s=0.001)
WORKLOAD = Workload("three", [0.0, 0.5, 0.5], [10, 70, 5], [3, 1, 2])


def test_a_run_by_hand() -> None:
    """Three requests on one replica: 70 prompt tokens take two iterations of at most 64 tokens."""
    results = simulate(WORKLOAD, make_router("round_robin"), num_replicas=1, engine=ENGINE, cost=COST)
    # request 0: prefill of 10 tokens, then two decodes of one token
    np.testing.assert_allclose(results.first_token_s[0], 0.020)
    np.testing.assert_allclose(results.finish_s[0], 0.020 + 2 * 0.011)
    # requests 1 and 2 arrive together: 64 tokens of request 1; its last 6 and all 5 of request 2; one decode
    np.testing.assert_allclose(results.first_token_s[1:], 0.5 + 0.074 + 0.021)
    np.testing.assert_allclose(results.finish_s[1:], [0.595, 0.595 + 0.011])
    np.testing.assert_allclose(results.scheduled_s, [0.0, 0.5, 0.574])


def test_router_that_chooses_no_replica_is_refused() -> None:
    with pytest.raises(ValueError, match="does not exist"):
        simulate(WORKLOAD, Router("bad", lambda *_: 1, looks=False), num_replicas=1, engine=ENGINE, cost=COST)


def test_request_larger_than_the_kv_cache_is_refused() -> None:
    with pytest.raises(InputError, match="request 1 with 70 prompt and 1 output tokens needs 5 KV blocks"):
        simulate(
            WORKLOAD,
            make_router("jsq"),
            num_replicas=1,
            engine=Engine(64, 8, num_kv_blocks=4),
            cost=COST,
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 1), "engine.max_num_batched_tokens = 0: must be at least 1"),
        ((4, 8, 1), "engine.max_num_seqs = 8: must be at most max_num_batched_tokens = 4"),
        ((70_000, 66_000, 1), "engine.max_num_seqs = 66000: must be at most 65535"),
        ((8, 8, 0), "engine.num_kv_blocks = 0: must be at least 1"),
    ],
)
def test_engine_limits_are_checked(values: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Engine(*values)


def test_an_engine_beyond_its_cost_is_refused() -> None:
    """Its tables would be read past their end."""
    cost = linear_iteration_cost(max_num_batched_tokens=8, max_num_seqs=4, overhead_s=1.0)
    workload = Workload("one", [0.0], [1], [1])
    for engine, message in (
        (Engine(9, 4, 10), "engine.max_num_batched_tokens = 9: must be at most 8, for which cost has times"),
        (Engine(8, 5, 10), "engine.max_num_seqs = 5: must be at most 4, for which cost has times"),
    ):
        with pytest.raises(InputError, match=message):
            simulate(workload, make_router("round_robin"), num_replicas=1, engine=engine, cost=cost)


def test_same_seed_same_result_and_another_seed_another() -> None:
    """Seed 0 is a seed like any other."""
    workload = Workload("many", np.arange(200) * 0.01, np.full(200, 30), np.full(200, 5))

    def replicas(seed: int) -> list[int]:
        return list(
            simulate(
                workload, make_router("random"), num_replicas=4, engine=ENGINE, cost=COST, seed=seed
            ).replica
        )

    assert replicas(0) == replicas(0)
    assert replicas(0) != replicas(1)
    assert set(replicas(0)) == {0, 1, 2, 3}


def test_uniform_draws_are_uniform() -> None:
    state = random_state(np.random.SeedSequence(0))
    draws = np.array([next_uniform(state) for _ in range(20_000)])
    assert 0 <= draws.min() < 0.001
    assert 0.999 < draws.max() < 1
    np.testing.assert_allclose(np.histogram(draws, bins=10, range=(0, 1))[0] / 2000, 1, atol=0.1)
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("prefill_blocks", "KV blocks in use differ"),
        ("anchor_blocks", "KV blocks in use differ"),
        ("num_unfinished", "a request is lost"),
        ("prompt_tokens", "prompt tokens are lost or made up"),
        ("context_offset", "decode context tokens differ"),
    ],
)
def test_invariants_notice_corruption(field: str, message: str) -> None:
    """The debug switch is worth something: breaking any counter is noticed."""
    workload = replace(WORKLOAD, output_tokens=np.full(3, 30))
    fleet = fleet_with(workload, [ReplicaSpec(ENGINE, COST)])
    for request_id in range(3):
        advance(fleet, 0, float(WORKLOAD.arrival_s[request_id]))
        submit(fleet, 0, request_id)
    advance(fleet, 0, 0.6)
    check_replica(fleet, 0)
    fleet.replicas[field][0] += 1
    with pytest.raises(AssertionError, match=message):
        check_replica(fleet, 0)
