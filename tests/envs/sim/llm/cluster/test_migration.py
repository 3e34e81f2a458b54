"""Migration in the fast fleet: what is refused, a case by hand, and rules compiled or not."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.cluster.plan import FleetPlan, Member, Migration
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.rebalancer import KEEP, START, STAY, STOP, Rebalancer, compiled_rebalancer
from servegym.envs.sim.llm.router import Router, next_uniform
from servegym.envs.sim.llm.view import AVAILABLE, RUNNING, STANDING
from servegym.envs.workloads import Workload

ENGINE = Engine(max_num_batched_tokens=16, max_num_seqs=4, num_kv_blocks=20, block_size=4)
ONE_SECOND = linear_iteration_cost(max_num_batched_tokens=16, max_num_seqs=4, overhead_s=1.0, per_token_s=0.0)
MEMBER = Member(ENGINE, ONE_SECOND, link_bytes_per_s=4.0, kv_bytes_per_block=1.0)  # 0.25 s a block
FIRST = Router("first", lambda *_: 0)


def move_once(source: int, target: int) -> Rebalancer:
    """A rule that names one pair, the first time that it is asked."""

    def choose(replicas, parameters, memory, random_state, moves, orders):
        moves[0] = source, target
        memory[0] += 1
        return int(memory[0] == 1)

    return Rebalancer("once", choose, memory_size=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Migration(STAY, 0.0), "migration.every_s = 0.0: must be above 0"),
        (lambda: Migration(STAY, np.inf), "migration.every_s = inf"),
        (lambda: Migration(STAY, 1.0, last_stage_blocks=-1), "migration.last_stage_blocks = -1: must be at"),
        (lambda: Migration(STAY, 1.0, max_stages=-1), "migration.max_stages = -1: must be at least 0"),
        (
            lambda: FleetPlan(
                [MEMBER, replace(MEMBER, engine=Engine(16, 4, 20, 8))], migration=Migration(STAY, 1.0)
            ),
            r"engine.block_size = \[4, 8\]: must be the same for all replicas with migration",
        ),
        (
            lambda: FleetPlan(
                [MEMBER, replace(MEMBER, engine=Engine(16, 4, 20, 4, scheduler="sarathi"))],
                migration=Migration(STAY, 1.0),
            ),
            r"replicas\[1\].engine.scheduler = sarathi: prefill and decode roles and migration need vllm_v1",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(("source", "target"), [(0, 2), (-1, 0)])
def test_rule_that_names_no_replica_is_refused(source: int, target: int) -> None:
    plan = FleetPlan([MEMBER] * 2, migration=Migration(move_once(source, target), 1.5))
    with pytest.raises(InputError, match=r"rebalancer 'once': gave 1 moves, .* replicas from 0 to 1"):
        simulate_fleet(Workload("one", [0.0], [12], [20]), FIRST, plan)


def test_rule_that_names_too_many_pairs_is_refused() -> None:
    plan = FleetPlan([MEMBER] * 2, migration=Migration(Rebalancer("many", lambda *_: 3), 1.5))
    with pytest.raises(InputError, match="rebalancer 'many': gave 3 moves"):
        simulate_fleet(Workload("one", [0.0], [12], [20]), FIRST, plan)


def test_request_decodes_while_its_kv_goes_over_and_stops_for_the_last_blocks() -> None:
    """12 tokens are computed at 1 s. At 1.5 s 3 full blocks go, till 2.25. Then 13 are computed, one block is
    left, and it stops at 3, with 14: one block goes, till 3.25. 17 of 20 tokens are generated there."""
    migration = Migration(move_once(0, 1), 1.5, last_stage_blocks=1)
    plan = FleetPlan([MEMBER] * 2, migration=migration)
    results = simulate_fleet(Workload("one", [0.0], [12], [20]), FIRST, plan, debug=True)
    assert results.replica.tolist() == [1] and results.migrations.tolist() == [1]
    np.testing.assert_allclose(results.finish_s, 20.25)


def test_unknown_order_is_refused() -> None:
    def choose(replicas, parameters, memory, random_state, moves, orders):
        orders[1] = 9
        return 0

    plan = FleetPlan([MEMBER] * 2, migration=Migration(Rebalancer("mine", choose), 1.5))
    with pytest.raises(
        InputError, match="rebalancer 'mine': gave replica 1 the order 9: must be from 0 to 6"
    ):
        simulate_fleet(Workload("one", [0.0], [12], [20]), FIRST, plan)


def test_urgent_requests_only_leave_replicas_that_are_not_available() -> None:
    """One request with priority 0: its replica drains from 1.5 s on, and only then it goes."""

    def stop(replicas, parameters, memory, random_state, moves, orders):
        orders[0] = STOP
        return move_once(0, 1).choose(replicas, parameters, memory, random_state, moves, orders)

    for rule, migrations in ((move_once(0, 1), 0), (Rebalancer("stop", stop, memory_size=1), 1)):
        plan = FleetPlan([MEMBER] * 2, migration=Migration(rule, 1.5))
        workload = Workload("one", [0.0], [12], [20], priority=[0])
        results = simulate_fleet(workload, FIRST, plan, debug=True)
        assert results.migrations.tolist() == [migrations], rule.name


def test_rule_starts_and_stops_replicas() -> None:
    """Replica 1 stops at 2 s with a request (4 iterations from 1 s), starts again at 4 and 12 s."""
    turns: list[list[int]] = []

    def choose(replicas, parameters, memory, random_state, moves, orders):
        turns.append(replicas[:, STANDING].astype(int).tolist())
        orders[1] = {1: STOP, 2: START, 4: STOP, 6: START}.get(len(turns), KEEP)
        return 0

    seen: list[list[float]] = []

    def route(replicas, *_):
        seen.append(replicas[:, AVAILABLE].tolist())
        return int(np.flatnonzero(replicas[:, AVAILABLE])[-1])

    plan = FleetPlan([MEMBER] * 2, migration=Migration(Rebalancer("mine", choose), 2.0), startup_s=1.5)
    arrivals = [1.0, 3.0, 5.0, 9.0, 13.0, 14.0]
    workload = Workload("six", arrivals, [4] * 6, [4] * 6)
    results = simulate_fleet(workload, Router("last", route), plan, debug=True)
    assert seen == [[1, 1], [1, 0], [1, 1], [1, 0], [1, 0], [1, 1]]
    assert results.replica.tolist() == [1, 0, 1, 0, 0, 1]
    assert turns[:7] == [[0, 0], [0, 2], [0, 0], [0, 0], [0, 3], [0, 3], [0, 0]]


def test_least_urgent_then_shortest_then_first_admitted_leaves() -> None:
    """All four decode at 1.5 s."""
    plan = FleetPlan([MEMBER] * 2, migration=Migration(move_once(0, 1), 1.5))
    for priority, mover in (([0, 1, 1, 1], 2), ([0, 1, 0, 0], 1), ([2, 2, 2, 2], 0)):
        workload = Workload("four", np.zeros(4), [3, 4, 3, 3], [9, 9, 9, 9], priority=priority)
        results = simulate_fleet(workload, FIRST, plan, debug=True)
        assert np.flatnonzero(results.migrations).tolist() == [mover], priority


def test_request_preempted_and_back_meanwhile_is_not_migrated() -> None:
    """The stage from 4.5 s on ends at 11.25. At 5 s the request is preempted, at 10 it decodes again."""
    slow = replace(MEMBER, engine=Engine(16, 4, 8, 4), link_latency_s=6.0)
    plan = FleetPlan([slow, MEMBER], migration=Migration(move_once(0, 1), 4.5, last_stage_blocks=2))
    workload = Workload("two", np.zeros(2), [12, 12], [9, 12], priority=[0, 1])
    results = simulate_fleet(workload, FIRST, plan, debug=True)
    assert results.preemptions.tolist() == [0, 1]
    assert results.migrations.tolist() == [0, 0] and results.replica.tolist() == [0, 0]


@compiled_rebalancer
def draw(replicas, parameters, memory, random_state, moves, orders):
    """Moves from the busiest replica to one drawn."""
    count = replicas.shape[0]
    moves[0, 0] = np.argmax(replicas[:, RUNNING])
    moves[0, 1] = int(next_uniform(random_state) * count)
    memory[0] += 1
    return 1


@pytest.mark.compiled
def test_compiled_rule_is_the_same_rule_in_python() -> None:
    """A rule that draws, called through a pointer or by the interpreter, under a compiled router."""
    rng = np.random.default_rng(0)
    count = 200
    workload = Workload(
        "many", np.cumsum(rng.exponential(3.0, count)), rng.integers(1, 12, count), rng.integers(1, 30, count)
    )
    compiled, interpreted = (
        simulate_fleet(
            workload,
            make_router("jsq"),
            FleetPlan([MEMBER] * 3, migration=Migration(Rebalancer("draw", choose, memory_size=1), 0.5, 1)),
            seed=3,
        )
        for choose in (draw, draw.py_func)
    )
    assert compiled.migrations.sum() > count / 4
    for name in ("replica", "finish_s", "migrations", "preemptions"):
        np.testing.assert_array_equal(getattr(compiled, name), getattr(interpreted, name), err_msg=name)
