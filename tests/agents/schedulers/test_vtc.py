"""The virtual token counter: its bookkeeping by hand, and its order against picking one by one."""

import numpy as np

from servegym.agents.schedulers import make_scheduler
from servegym.envs.sim.llm.ranking import (
    ARRIVAL_S,
    GENERATED_TOKENS,
    GONE,
    MEMORY,
    PLACE,
    PROMPT_TOKENS,
    RUNNING,
    TENANT,
    WAITING,
)
from tests.agents.schedulers.rows import Asked, rows_of


def asked(num_tenants: int = 3, **parameters: object) -> Asked:
    return Asked(make_scheduler("vtc", num_tenants=num_tenants, **parameters))


def test_prompts_count_when_admitted_and_tokens_when_generated_and_the_gone_once_more() -> None:
    vtc = asked()
    rows = rows_of(2, tenant=[1, 2], prompt_tokens=[100, 10])
    vtc.keys(rows)
    assert vtc.memory.tolist() == [0, 0, 0, 0]
    rows[:, PLACE], rows[:, GENERATED_TOKENS] = [RUNNING, WAITING], [5, 0]
    vtc.keys(rows)
    assert vtc.memory[1:].tolist() == [0, 100 + 2 * 5, 0]
    rows[:, PLACE], rows[:, GENERATED_TOKENS] = [GONE, RUNNING], [8, 1]
    vtc.keys(rows)
    assert vtc.memory[1:].tolist() == [0, 100 + 2 * 8, 10 + 2 * 1]


def test_the_cancelled_in_the_queue_cost_nothing() -> None:
    vtc = asked()
    rows = rows_of(1, tenant=1, prompt_tokens=100)
    vtc.keys(rows)
    rows[:, PLACE] = GONE
    vtc.keys(rows)
    assert vtc.memory[1:].tolist() == [0, 0, 0]


def test_who_runs_stays_and_a_preempted_request_does_not_pay_twice() -> None:
    vtc = asked()
    rows = rows_of(3, tenant=[0, 0, 1], prompt_tokens=[50, 50, 50], arrival_s=[0, 1, 2])
    vtc.keys(rows)
    rows[0, PLACE] = RUNNING
    assert vtc.order(rows) == [0, 2, 1]  # 50 against 0
    rows[0, PLACE] = WAITING
    assert vtc.keys(rows).tolist() == [50, 50, 0]


def test_a_tenant_that_comes_back_is_lifted_to_the_least_that_waits() -> None:
    vtc = asked()
    rows = rows_of(3, tenant=[0, 0, 1], prompt_tokens=[40, 40, 40], arrival_s=[0, 1, 2])
    vtc.keys(rows[:2])
    rows[0, PLACE] = RUNNING
    vtc.keys(rows)  # tenant 1 comes while one of tenant 0 waits, whose counter is at 40
    assert vtc.memory[1:].tolist() == [40, 40, 0]


def test_into_an_empty_queue_a_tenant_is_lifted_to_the_one_admitted_last() -> None:
    vtc = asked()
    rows = rows_of(3, tenant=[0, 1, 2], prompt_tokens=[40, 70, 9], arrival_s=[0, 0.1, 5])
    vtc.keys(rows[:2])
    rows[:2, PLACE] = RUNNING  # both admitted; tenant 1 had the later place in the order
    vtc.keys(rows)
    assert vtc.memory[1:].tolist() == [40, 70, 70]


def picked_one_by_one(rows: np.ndarray, counters: np.ndarray) -> list[int]:
    """Algorithm 2's choice: the tenant of the least counter, its earliest request, which it pays for."""
    counters, order = counters.copy(), []
    while len(order) < len(rows):
        left = [row for row in range(len(rows)) if row not in order]
        heads = {}
        for row in sorted(left, key=lambda row: rows[row, ARRIVAL_S]):
            heads.setdefault(int(rows[row, TENANT]), row)
        row = min(heads.values(), key=lambda row: (counters[int(rows[row, TENANT])], rows[row, ARRIVAL_S]))
        counters[int(rows[row, TENANT])] += rows[row, PROMPT_TOKENS]
        order.append(row)
    return order


def test_the_order_is_that_of_picking_one_by_one() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        rows = rows_of(12, arrival_s=rng.permutation(12), tenant=rng.integers(0, 3, 12))
        rows[:, PROMPT_TOKENS] = rng.integers(1, 500, 12)
        rows[:, MEMORY + 1] = 1.0  # they waited before, so nobody is lifted
        vtc = asked()
        vtc.memory[1:] = rng.integers(0, 800, 3)
        counters = vtc.memory[1:].copy()
        by_key = np.argsort(vtc.keys(rows), kind="stable")
        ties = len(np.unique(vtc.keys(rows))) < 12
        assert ties or by_key.tolist() == picked_one_by_one(rows, counters)


def test_tenants_beyond_the_number_share_counters() -> None:
    vtc = asked(num_tenants=2)
    rows = rows_of(1, tenant=7, prompt_tokens=30, place=RUNNING)
    vtc.keys(rows)
    assert vtc.memory[1:].tolist() == [0, 30]
