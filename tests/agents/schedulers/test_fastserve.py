"""FastServe's queues, followed by hand."""

import numpy as np
import pytest

from servegym.agents.schedulers import make_scheduler
from servegym.agents.schedulers.fastserve import LEVEL_S, POSITION
from servegym.costmodels.iterations.linear import LinearClock
from servegym.envs.sim.llm.ranking import (
    COMPUTED_TOKENS,
    GENERATED_TOKENS,
    PLACE,
    SERVED,
    SWAPPED,
    WAITING,
    Ranking,
)
from tests.agents.schedulers.rows import Asked, rows_of

CLOCK = LinearClock(0.001, 0.0001, 0.0, 0.0)  # 1 ms an iteration, 0.1 ms a token


def scheduler(**parameters: object) -> Ranking:
    """With quanta of 10, 20, 40, ... ms."""
    return make_scheduler("fastserve", clock=CLOCK, **parameters)


def queues(rows: np.ndarray) -> list[int]:
    return [round(position / LEVEL_S) for position in rows[:, POSITION]]


def test_requests_join_the_first_level_that_covers_their_prefill() -> None:
    """Prefills of 9.9, 10.1, 20.1 and 205.8 ms, and one beyond the last level."""
    rows = rows_of(5, prompt_tokens=[89, 91, 191, 2048, 10**6])
    Asked(scheduler()).keys(rows)
    assert queues(rows) == [1, 2, 3, 6, 10]
    rows = rows_of(1, prompt_tokens=[3190])  # 319 + 2 * 1 ms: two iterations, beyond 320 ms
    Asked(scheduler()).keys(rows)
    assert queues(rows) == [7]


def test_levels_go_before_arrivals_and_arrivals_order_a_level() -> None:
    rows = rows_of(3, prompt_tokens=[500, 10, 10], arrival_s=[0, 2, 1])
    assert Asked(scheduler()).order(rows, now_s=2) == [2, 1, 0]


def test_a_quantum_used_up_demotes_to_the_front_of_the_next_level() -> None:
    """Level 0 has 10 ms: after 6 ms it stays, after 12 ms it joins level 1 before one that waits there."""
    asked = Asked(scheduler())
    rows = rows_of(2, prompt_tokens=[10, 100], arrival_s=[0, 0.5])
    assert asked.order(rows, now_s=1.0) == [0, 1]
    rows[:, SERVED] = [1, 0]
    assert asked.order(rows, now_s=1.006, last_iteration_s=0.006) == [0, 1]
    assert queues(rows) == [1, 2]
    assert asked.order(rows, now_s=1.012, last_iteration_s=0.006) == [0, 1]
    assert queues(rows) == [2, 2]
    for step in range(4):  # and 20 ms in level 1
        asked.keys(rows, now_s=1.018 + 0.006 * step, last_iteration_s=0.006)
        assert queues(rows)[0] == (3 if step == 3 else 2)


def test_the_last_level_keeps_its_requests() -> None:
    asked = Asked(scheduler(num_levels=1))
    rows = rows_of(1, prompt_tokens=100, served=1)
    for step in range(5):
        asked.keys(rows, now_s=step, last_iteration_s=1.0)
    assert queues(rows) == [1]


def test_the_idle_are_promoted_to_the_front_of_level_0() -> None:
    asked = Asked(scheduler(starvation_period=1))
    rows = rows_of(2, prompt_tokens=[10**4, 10], arrival_s=[0, 2.9])
    assert asked.order(rows, now_s=2.99) == [1, 0]
    rows[:, SERVED] = [0, 1]
    assert asked.order(rows, now_s=3.0, last_iteration_s=0.001) == [0, 1]
    rows[:, SERVED] = [1, 0]  # its quantum there is that of level 0
    assert asked.order(rows, now_s=3.008, last_iteration_s=0.008) == [0, 1]
    asked.keys(rows, now_s=3.016, last_iteration_s=0.008)
    assert queues(rows) == [2, 1]


def test_the_starved_are_looked_for_once_a_period() -> None:
    asked = Asked(scheduler(starvation_period=4))
    rows = rows_of(1, prompt_tokens=10)
    found = []
    for iteration in range(1, 5):
        asked.keys(rows, now_s=3.0 + iteration)
        found.append(queues(rows))
    assert found == [[1], [1], [1], [0]]


def test_no_prompt_is_begun_while_the_host_is_nearly_full() -> None:
    """One of 10 host blocks is free at first, a tenth; then one more token takes it."""
    asked = Asked(scheduler(swap_blocks=10))
    rows = rows_of(3, prompt_tokens=[10, 10, 1000], arrival_s=[1, 2, 0])
    rows[:, PLACE] = [WAITING, WAITING, SWAPPED]
    rows[:, COMPUTED_TOKENS] = [0, 0, 9 * 16]
    rows[1, GENERATED_TOKENS] = 1  # recomputed, so not a new prompt
    assert asked.order(rows, now_s=3.0, block_size=16) == [0, 1, 2]
    rows[2, COMPUTED_TOKENS] += 1
    assert asked.order(rows, now_s=3.0, block_size=16) == [1, 2, 0]


def test_swapping_is_brought_along_unless_there_is_no_host_memory() -> None:
    engine = scheduler(max_batch=8, swap_blocks=100, swap_ahead_blocks=3, swap_s_per_block=0.5).engine
    assert engine == {
        "max_num_seqs": 8,
        "preemption": "swap",
        "swap_blocks": 100,
        "swap_s_per_block": 0.5,
        "swap_ahead_blocks": 3,
    }
    assert scheduler(max_batch=8, swap_blocks=0).engine == {"max_num_seqs": 8}
    assert scheduler().every_iteration
    assert scheduler().engine["max_num_seqs"] == pytest.approx(64)
