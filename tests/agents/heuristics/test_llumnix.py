"""Llumnix's rescheduling: who is paired with whom, and what it is good for."""

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.agents.heuristics.llumnix import choose, llumnix_rebalancer
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.cluster.plan import FleetPlan, Member, Migration
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    DECODE_CONTEXT_TOKENS,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    QUEUED_PREFILL_TOKENS,
    REPLICA_FEATURES,
    RUNNING,
    WAITING,
)
from servegym.envs.workloads import Workload


def rows_of(*replicas: tuple[int, int, int, int], available: tuple[int, ...] = ()) -> np.ndarray:
    """Replicas with 100 blocks: (running, waiting, blocks used, tokens to prefill)."""
    rows = np.zeros((len(replicas), REPLICA_FEATURES))
    rows[:, AVAILABLE] = available or 1
    rows[:, KV_TOTAL_BLOCKS] = 100
    rows[:, [RUNNING, WAITING, KV_USED_BLOCKS, QUEUED_PREFILL_TOKENS]] = replicas
    rows[:, DECODE_CONTEXT_TOKENS] = rows[:, RUNNING] * 10
    return rows


def pairs(rows: np.ndarray, **parameters: float) -> list[list[int]]:
    """The moves of the rule for these rows."""
    moves = np.zeros((len(rows), 2), np.int64)
    rule = llumnix_rebalancer(**parameters)
    count = choose(rows, rule.parameters, np.zeros(0), np.zeros(1, np.uint64), moves)
    return moves[:count].tolist()


def test_the_fullest_gives_to_the_freest() -> None:
    """Freeness 2, 50, 1, 10 blocks a request: 2 is the lowest and 1 the highest."""
    rows = rows_of((10, 0, 80, 0), (2, 0, 0, 0), (10, 0, 90, 0), (4, 0, 60, 0))
    assert pairs(rows) == [[2, 1], [0, 3]]
    assert pairs(rows, out_below=1.5, in_above=20.0) == [[2, 1]]
    assert pairs(rows, out_below=1.5, in_above=60.0) == []


def test_waiting_requests_count_as_if_they_were_there() -> None:
    """40 blocks are free for 4 running ones; 33 to 48 waiting tokens need 3 of them, 600 tokens 38."""
    assert pairs(rows_of((4, 1, 60, 48), (0, 0, 0, 0))) == []
    assert pairs(rows_of((4, 1, 60, 600), (0, 0, 0, 0))) == [[0, 1]]


def test_replicas_that_take_no_more_requests_give_theirs_away_first() -> None:
    """One that drains comes before the full one; an inactive one is neither source nor target."""
    rows = rows_of((10, 0, 90, 0), (1, 0, 1, 0), (0, 0, 0, 0), (0, 0, 0, 0), available=(1, 0, 1, 0))
    assert pairs(rows) == [[1, 2]]


def test_thresholds_are_checked() -> None:
    with pytest.raises(InputError, match=r"rebalancer.out_below, in_above = 5.0, 4.0: the first must not"):
        llumnix_rebalancer(5.0, 4.0)
    with pytest.raises(InputError, match="rebalancer.block_size = 0"):
        llumnix_rebalancer(block_size=0)


def test_migration_relieves_a_replica_of_preemptions() -> None:
    """A round robin gives one of two replicas all the long requests; with Llumnix both serve them."""
    engine = Engine(max_num_batched_tokens=256, max_num_seqs=64, num_kv_blocks=120)
    cost = linear_iteration_cost(
        max_num_batched_tokens=256, max_num_seqs=64, overhead_s=0.01, per_token_s=0.0001
    )
    link = {"link_latency_s": 0.001, "link_bytes_per_s": 1e9, "kv_bytes_per_block": 1e5}
    count = 60
    workload = Workload(
        "skewed", np.arange(count) * 0.15, np.full(count, 50), np.where(np.arange(count) % 2, 10, 400)
    )
    moved = Migration(llumnix_rebalancer(), every_s=0.05)
    fixed, migrated = (
        simulate_fleet(
            workload,
            make_router("round_robin"),
            FleetPlan([Member(engine, cost, **link)] * 2, migration=migration),
            debug=True,
        )
        for migration in (None, moved)
    )
    assert fixed.migrations.sum() == 0 and migrated.migrations.sum() > 10
    assert migrated.preemptions.sum() < fixed.preemptions.sum() / 2
    assert migrated.finish_s.max() < fixed.finish_s.max()
