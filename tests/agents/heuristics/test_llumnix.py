"""Llumnix's rescheduling and scaling: who is paired with whom, who starts and stops, what it is good for."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.agents.heuristics.llumnix import choose, llumnix_rebalancer
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.cluster.plan import FleetPlan, Member, Migration
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.cluster.state import ACTIVE, LEAVING, OFF, STARTING
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.rebalancer import KEEP, START, STOP
from servegym.envs.sim.llm.view import DECODE_CONTEXT_TOKENS, RUNNING
from servegym.envs.workloads import Workload
from tests.agents.heuristics import rows as made

ENGINE = Engine(max_num_batched_tokens=256, max_num_seqs=64, num_kv_blocks=120)
COST = linear_iteration_cost(max_num_batched_tokens=256, max_num_seqs=64, overhead_s=0.01, per_token_s=0.0001)
MEMBER = Member(ENGINE, COST, link_latency_s=0.001, link_bytes_per_s=1e9, kv_bytes_per_block=1e5)


def rows_of(*replicas: tuple[int, int, int, int], **columns: object) -> np.ndarray:
    """Replicas with 100 blocks: (running, waiting, blocks used, tokens of the first waiting)."""
    running, waiting, used, first = np.transpose(replicas)
    rows = made.rows_of(
        len(replicas),
        running=running,
        waiting=waiting,
        kv_used_blocks=used,
        first_waiting_tokens=first,
        queued_prefill_tokens=waiting * first,
        **columns,
    )
    rows[:, DECODE_CONTEXT_TOKENS] = rows[:, RUNNING] * 10
    return rows


def answer(rows: np.ndarray, **parameters: object) -> tuple[list[list[int]], list[int]]:
    """The moves and the orders of the rule for these rows."""
    moves, orders = np.zeros((len(rows), 2), np.int64), np.zeros(len(rows), np.int64)
    rule = llumnix_rebalancer(**{"watermark": 0.0, "scale_turns": 1, **parameters})
    memory = np.zeros(rule.memory_size)
    count = choose(rows, rule.parameters, memory, np.zeros(1, np.uint64), moves, orders)
    return moves[:count].tolist(), orders.tolist()


def pairs(rows: np.ndarray, **parameters: object) -> list[list[int]]:
    return answer(rows, **parameters)[0]


def orders(rows: np.ndarray, **parameters: object) -> list[int]:
    return answer(rows, scaling=True, **parameters)[1]


def test_the_fullest_gives_to_the_freest() -> None:
    """Freeness 2, 50, 1, 10 blocks a request: 2 is the lowest and 1 the highest."""
    rows = rows_of((10, 0, 80, 0), (2, 0, 0, 0), (10, 0, 90, 0), (4, 0, 60, 0))
    assert pairs(rows) == [[2, 1], [0, 3]]
    assert pairs(rows, out_below=1.5, in_above=20.0) == [[2, 1]]
    assert pairs(rows, out_below=1.5, in_above=60.0) == []


def test_waiting_requests_count_as_if_they_were_there() -> None:
    """40 blocks are free for 4 running ones; the first of 3 that wait needs 13 or 38, all of them more."""
    assert pairs(rows_of((4, 3, 60, 200), (0, 0, 0, 0))) == []
    assert pairs(rows_of((4, 3, 60, 600), (0, 0, 0, 0))) == [[0, 1]]
    assert pairs(rows_of((4, 3, 60, 200), (0, 0, 0, 0)), defrag=False) == [[0, 1]]


def test_replicas_that_take_no_more_requests_give_theirs_away_first() -> None:
    """One that drains comes before the full one; an inactive one is neither source nor target."""
    rows = rows_of((10, 0, 90, 0), (1, 0, 1, 0), (0, 0, 0, 0), (0, 0, 0, 0), available=(1, 0, 1, 0))
    assert pairs(rows) == [[1, 2]]


def test_others_make_room_for_an_urgent_request_and_it_stays() -> None:
    """With 800 tokens 50 of 100 blocks: 10 are left of 60 to five, and urgent ones alone are no source."""
    rows = rows_of((5, 0, 40, 0), (1, 0, 90, 0), (0, 0, 0, 0), urgent=[1, 1, 0])
    assert pairs(rows, urgent_load_tokens=800) == [[0, 2]]
    assert pairs(rows, urgent_load_tokens=1600) == []


def test_thresholds_are_checked() -> None:
    with pytest.raises(InputError, match=r"rebalancer.out_below, in_above = 5.0, 4.0: the first must not"):
        llumnix_rebalancer(5.0, 4.0)
    with pytest.raises(InputError, match="rebalancer.block_size = 0"):
        llumnix_rebalancer(block_size=0)
    with pytest.raises(
        InputError, match=r"scale_up_below, scale_down_above = 61.0, 60.0: the first must not"
    ):
        llumnix_rebalancer(scale_up_below=61.0)


def test_one_more_starts_where_little_is_free_on_average() -> None:
    """11 blocks are left to 2 requests, and 100 to 12: 9.25 on average of requests, not of replicas."""
    rows = rows_of(
        (2, 0, 89, 0), (10, 0, 0, 0), *[(0, 0, 0, 0)] * 2, available=[1, 1, 0, 0], standing=[0, 0, 3, 3]
    )
    assert orders(rows) == [KEEP, KEEP, START, KEEP]
    assert orders(rows, scale_up_below=9.0) == [KEEP] * 4
    assert answer(rows)[1] == [KEEP] * 4  # without scaling


def test_one_that_drains_goes_on_before_another_starts_and_one_starts_at_a_time() -> None:
    rows = rows_of((20, 0, 90, 0), *[(0, 0, 0, 0)] * 2, available=[1, 0, 0], standing=[ACTIVE, OFF, LEAVING])
    assert orders(rows) == [KEEP, KEEP, START]
    rows = rows_of((20, 0, 90, 0), *[(0, 0, 0, 0)] * 2, available=[1, 0, 0], standing=[ACTIVE, OFF, STARTING])
    assert orders(rows) == [KEEP] * 3


def test_the_one_with_the_fewest_running_requests_stops_where_the_others_have_room() -> None:
    """180 blocks are left to 2; without one replica, 80: 40 to each."""
    rows = rows_of((1, 0, 10, 0), (1, 0, 10, 0))
    assert orders(rows) == [KEEP, KEEP]
    assert orders(rows, scale_down_above=39.0) == [STOP, KEEP]
    rows = rows_of((2, 0, 10, 0), (1, 0, 10, 0))
    assert orders(rows, scale_down_above=26.0) == [KEEP, STOP]
    assert orders(rows, scale_down_above=26.0, min_replicas=2) == [KEEP, KEEP]
    assert orders(rows_of((0, 0, 0, 0), (0, 0, 0, 0))) == [STOP, KEEP]


def test_scaling_is_thought_of_every_so_many_turns() -> None:
    rows = rows_of((0, 0, 0, 0), (0, 0, 0, 0))
    rule, memory = llumnix_rebalancer(scaling=True, scale_turns=3), np.zeros(1)
    stops = []
    for _ in range(7):
        order = np.zeros(2, np.int64)
        choose(rows, rule.parameters, memory, np.zeros(1, np.uint64), np.zeros((2, 2), np.int64), order)
        stops.append(order.tolist().count(STOP))
    assert stops == [0, 0, 1, 0, 0, 1, 0]


def test_migration_relieves_a_replica_of_preemptions() -> None:
    """A round robin gives one of two replicas all the long requests; with Llumnix both serve them."""
    count = 60
    workload = Workload(
        "skewed", np.arange(count) * 0.15, np.full(count, 50), np.where(np.arange(count) % 2, 10, 400)
    )
    moved = Migration(llumnix_rebalancer(), every_s=0.05)
    fixed, migrated = (
        simulate_fleet(
            workload,
            make_router("round_robin"),
            FleetPlan([MEMBER] * 2, migration=migration),
            debug=True,
        )
        for migration in (None, moved)
    )
    assert fixed.migrations.sum() == 0 and migrated.migrations.sum() > 10
    assert migrated.preemptions.sum() < fixed.preemptions.sum() / 2
    assert migrated.finish_s.max() < fixed.finish_s.max()


def test_scaling_follows_the_load() -> None:
    """Quiet, busy, quiet: replicas start for the burst and stop after it; one would preempt more."""
    rng = np.random.default_rng(0)
    gaps = np.concatenate([np.full(10, 2.0), rng.exponential(0.1, 300), np.full(10, 2.0)])
    workload = Workload("burst", np.cumsum(gaps), np.full(320, 40), rng.integers(50, 250, 320))
    serving: list[int] = []
    rule = llumnix_rebalancer(scaling=True, scale_turns=1)

    def watch(replicas, parameters, memory, random_state, moves, orders):
        serving.append(int(np.isin(replicas[:, -2], [ACTIVE, STARTING]).sum()))
        return rule.choose(replicas, parameters, memory, random_state, moves, orders)

    plan = FleetPlan(
        [MEMBER] * 4,
        scaling=[(0.0, 1)],
        startup_s=2.0,
        migration=Migration(replace(rule, choose=watch), every_s=0.5),
    )
    scaled = simulate_fleet(workload, make_router("llumnix_dispatch"), plan)
    one = simulate_fleet(workload, make_router("llumnix_dispatch"), FleetPlan([MEMBER]))
    assert serving[10] == serving[-1] == 1 and max(serving) >= 3
    assert np.mean(serving) < 3
    assert scaled.preemptions.sum() < one.preemptions.sum() / 2
    assert np.nanmax(scaled.finish_s - scaled.arrival_s) < np.nanmax(one.finish_s - one.arrival_s) / 2


def test_urgent_requests_are_faster_with_headroom() -> None:
    """One in twenty is urgent; without headroom (a load of a whole replica is fine) they share with many."""
    rng = np.random.default_rng(1)
    count = 400
    workload = Workload(
        "two classes",
        np.cumsum(rng.exponential(0.06, count)),
        rng.integers(20, 80, count),
        rng.integers(50, 200, count),
        priority=np.where(rng.random(count) < 0.05, 0, 1),
    )
    slower = replace(
        MEMBER,
        cost=linear_iteration_cost(
            max_num_batched_tokens=256, max_num_seqs=64, overhead_s=0.01, per_token_s=0.001
        ),
    )
    urgent = workload.priority == 0
    tpot_s = []
    for tokens in (400, 120 * 16):
        plan = FleetPlan(
            [slower] * 8, migration=Migration(llumnix_rebalancer(urgent_load_tokens=tokens), every_s=0.1)
        )
        results = simulate_fleet(workload, make_router("llumnix_dispatch", urgent_load_tokens=tokens), plan)
        each = (results.finish_s - results.first_token_s) / (workload.output_tokens - 1)
        tpot_s.append((each[urgent].mean(), each[~urgent].mean()))
    assert tpot_s[0][0] < 0.9 * tpot_s[1][0]
    assert tpot_s[0][1] < 1.1 * tpot_s[1][1]
