"""What a fleet's plan refuses, and what `simulate_fleet` does."""

import math
from dataclasses import replace

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.cluster.plan import Failure, FleetPlan, Member, Migration
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.rebalancer import STAY
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import OUTCOMES, simulate
from servegym.envs.workloads import Workload

ENGINE = Engine(max_num_batched_tokens=64, max_num_seqs=8, num_kv_blocks=100)
COST = linear_iteration_cost(max_num_batched_tokens=64, max_num_seqs=8, overhead_s=0.01, per_token_s=0.001)
PLAIN = Member(ENGINE, COST)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Member(ENGINE, COST, "other"), "role = other: must be one of mixed, prefill"),
        (lambda: Member(ENGINE), "role = mixed: needs an engine and a cost"),
        (lambda: Member(ENGINE, COST, link_bytes_per_s=0.0), "link_bytes_per_s = 0.0: must be above 0"),
        (lambda: Failure(0, 2.0, 1.0), "until_s = 1.0: must be after time_s = 2.0"),
        (lambda: FleetPlan([Member(role="encode")]), "role: no replica can prefill"),
        (lambda: FleetPlan([Member(ENGINE, COST, "prefill")]), "role: no replica can decode"),
        (lambda: FleetPlan([PLAIN, Member(ENGINE, COST, "decode")]), "role: no replica has prefill"),
        (lambda: FleetPlan([PLAIN], state_delay_s=math.nan), "state_delay_s = nan"),
        (lambda: FleetPlan([PLAIN], role_switch_s=-1.0), "role_switch_s = -1.0: must be at least 0"),
        (
            lambda: FleetPlan([PLAIN], migration=Migration(replace(STAY, switches_roles=True), 1.0)),
            "role_switch_s: must be given with rebalancer stay",
        ),
        (lambda: FleetPlan([PLAIN], on_failure="ignore"), "on_failure = ignore: must be reroute or lost"),
        (
            lambda: FleetPlan([PLAIN], failures=[Failure(1, 0.0)]),
            r"failures\[0\].replica = 1: must be from 0 to 0",
        ),
        (lambda: FleetPlan([PLAIN], scaling=[(1.0, 2)]), r"scaling\[0\].replicas = 2: must be from 0 to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_roles_need_vllm_v1() -> None:
    orca = Engine(64, 8, 100, scheduler="orca", max_model_len=50)
    with pytest.raises(InputError, match=r"replicas\[1\].engine.scheduler = orca"):
        FleetPlan([Member(ENGINE, COST, "prefill"), Member(orca, COST)])


def test_request_that_fits_nowhere_is_refused() -> None:
    """Also where it fits for its prefill and cannot decode."""
    workload = Workload("long", [0.0], [20], [1000])
    small = Member(Engine(64, 8, num_kv_blocks=4), COST, "decode")
    with pytest.raises(InputError, match="request 0 with 20 prompt and 1000 output tokens fits into no"):
        simulate_fleet(workload, make_router("jsq"), FleetPlan([Member(ENGINE, COST, "prefill"), small]))


def test_router_that_picks_an_unavailable_replica_is_refused() -> None:
    plan = FleetPlan([PLAIN, PLAIN], failures=[Failure(0, 0.0)])
    with pytest.raises(InputError, match=r"for request 0 that is not available; available are \[1\]"):
        simulate_fleet(Workload("one", [1.0], [5], [2]), Router("first", lambda *_: 0), plan)


@pytest.mark.parametrize("router", ["round_robin", "least_outstanding_tokens", "power_of_two"])
def test_plain_fleet_is_the_plain_simulator(router: str) -> None:
    """With no event at all the results of `simulate`, to the bit, with a compiled router."""
    rng = np.random.default_rng(0)
    workload = Workload(
        "many", np.cumsum(rng.exponential(0.02, 500)), rng.integers(1, 100, 500), rng.integers(1, 50, 500)
    )
    plain = simulate(workload, make_router(router), num_replicas=4, engine=ENGINE, cost=COST, seed=1)
    fleet = simulate_fleet(workload, make_router(router), FleetPlan([PLAIN] * 4), seed=1)
    assert {OUTCOMES[i] for i in fleet.outcome} == {"finished"}
    for name in ("replica", "arrival_s", "scheduled_s", "first_token_s", "finish_s", "preemptions"):
        np.testing.assert_array_equal(getattr(fleet, name), getattr(plain, name), err_msg=name)


def test_where_roles_change_requests_must_fit_whole_everywhere() -> None:
    """Also where they would only be prefilled at first."""
    workload = Workload("long", [0.0], [20], [1000])
    small = Member(Engine(64, 8, num_kv_blocks=4), COST, "prefill")
    members = [Member(ENGINE, COST, "prefill"), small, Member(ENGINE, COST, "decode")]
    FleetPlan(members).fits(workload)
    with pytest.raises(InputError, match="request 0 with 20 prompt and 1000 output tokens fits into no"):
        FleetPlan(members, role_switch_s=0.5).fits(workload)


def test_many_looks_and_events_find_room() -> None:
    """More instants to be seen later than there is room for at first."""
    workload = Workload("burst", np.arange(200) * 0.001, np.full(200, 5), np.full(200, 5))
    stale = simulate_fleet(
        workload, make_router("least_outstanding_tokens"), FleetPlan([PLAIN] * 2, state_delay_s=10.0)
    )
    assert set(stale.replica) == {0}  # nobody has yet been seen anywhere
    live = simulate_fleet(workload, make_router("least_outstanding_tokens"), FleetPlan([PLAIN] * 2))
    assert np.ptp(np.bincount(live.replica)) < 10


def test_kv_that_nobody_fetches_is_given_up_and_others_go_on() -> None:
    """Nobody decodes: the first request waits at the router, its KV keeps the second from its prefill."""
    cache = Engine(max_num_batched_tokens=64, max_num_seqs=8, num_kv_blocks=6)
    plan = FleetPlan(
        [Member(cache, COST, "prefill"), Member(cache, COST, "decode")], failures=[Failure(1, 0.0)]
    )
    results = simulate_fleet(
        Workload("two", [0.0, 0.0], [80, 80], [5, 5]), make_router("round_robin"), plan, debug=True
    )
    assert [OUTCOMES[i] for i in results.outcome] == ["lost", "lost"]
    assert results.first_token_s[0] < results.first_token_s[1]


def test_kv_transfer_by_hand() -> None:
    """Prefill of 32 tokens, 2 blocks of KV over the link, then decodes of one token elsewhere."""
    member = Member(ENGINE, COST, "prefill", link_latency_s=0.5, link_bytes_per_s=8.0, kv_bytes_per_block=2.0)
    plan = FleetPlan([member, Member(ENGINE, COST, "decode")])
    results = simulate_fleet(Workload("one", [1.0], [32], [3]), make_router("round_robin"), plan)
    np.testing.assert_allclose(results.first_token_s, 1.0 + 0.01 + 0.032)
    np.testing.assert_allclose(results.finish_s, results.first_token_s + 0.5 + 2 * 2.0 / 8.0 + 2 * 0.011)
    assert results.replica.tolist() == [1]
