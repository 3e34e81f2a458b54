"""Rankings of batches on requests few enough to order by hand; FastServe and VTC have their own files."""

import numpy as np
import pytest

from servegym.agents.schedulers import make_scheduler
from servegym.envs.sim.llm.ranking import GENERATED_TOKENS, PLACE, RUNNING, SERVED, WAITING
from tests.agents.schedulers.rows import Asked, order_of, rows_of


def test_srpt_serves_whom_least_is_left_of_wherever_it_is() -> None:
    rows = rows_of(3, predicted_remaining_tokens=[30, 10, 20], place=[RUNNING, WAITING, RUNNING])
    assert order_of(make_scheduler("srpt"), rows) == [1, 2, 0]


def test_ssjf_leaves_those_who_run_and_predicts_an_execution() -> None:
    rows = rows_of(3, predicted_output_tokens=[300, 10, 20], place=[RUNNING, WAITING, WAITING])
    scheduler = make_scheduler("ssjf")
    assert order_of(scheduler, rows) == [0, 1, 2]
    assert Asked(scheduler).keys(rows)[1:] == pytest.approx([0.1 + 0.2, 0.1 + 0.4])


@pytest.mark.parametrize(
    ("now_s", "expected"),
    [
        (2.9, [3, 0, 1, 2]),  # executions of 0.3, 0.5 and 20.1 s: nobody has waited for ten of them
        (3.1, [3, 0, 1, 2]),  # the first one has, and is the shortest anyway
        (6.0, [3, 0, 1, 2]),
        (101.0, [3, 2, 0, 1]),  # all have waited for over 100 s or ten executions: by arrival
    ],
)
def test_ssjf_guard_serves_the_starved_by_arrival(now_s: float, expected: list[int]) -> None:
    rows = rows_of(
        4,
        predicted_output_tokens=[10, 20, 1000, 500],
        arrival_s=[0.2, 0.3, 0.1, 0.4],
        place=[WAITING, WAITING, WAITING, RUNNING],
    )
    assert order_of(make_scheduler("ssjf", guard=True), rows, now_s=now_s) == expected
    assert order_of(make_scheduler("ssjf"), rows, now_s=now_s) == [3, 0, 1, 2]


def test_ssjf_guard_lets_a_starved_one_pass_a_shorter() -> None:
    rows = rows_of(2, predicted_output_tokens=[20, 10], arrival_s=[0.0, 5.0])
    assert order_of(make_scheduler("ssjf", guard=True), rows, now_s=4.9) == [1, 0]
    assert order_of(make_scheduler("ssjf", guard=True), rows, now_s=5.1) == [0, 1]


def test_trail_keeps_those_who_have_come_far() -> None:
    """Of 100 predicted tokens the first has generated 80, the second 79; a newcomer has less to do."""
    rows = rows_of(
        3,
        predicted_output_tokens=[100, 100, 10],
        predicted_remaining_tokens=[20, 21, 10],
        generated_tokens=[80, 79, 0],
        place=[RUNNING, RUNNING, WAITING],
    )
    assert order_of(make_scheduler("trail"), rows) == [0, 2, 1]
    assert order_of(make_scheduler("trail", c=0.0), rows) == [0, 1, 2]
    assert order_of(make_scheduler("trail", c=1.0), rows) == [2, 0, 1]
    rows[0, PLACE] = WAITING  # preempted for lack of memory: nothing is to be kept
    assert order_of(make_scheduler("trail"), rows) == [2, 0, 1]


def starving(rounds: int, **parameters: object) -> list[bool]:
    """Whether a long request goes before short ones, asked so often; it is served whenever it does."""
    asked = Asked(make_scheduler("learning_to_rank", **parameters))
    rows = rows_of(2, predicted_output_tokens=[1000, 10])
    first = []
    for _ in range(rounds):
        first.append(asked.order(rows)[0] == 0)
        rows[:, SERVED] = [first[-1], not first[-1]]
        rows[:, GENERATED_TOKENS] += rows[:, SERVED]
    return first


def test_learning_to_rank_promotes_after_so_many_iterations_left_out() -> None:
    """Five iterations start without it, then it is served in three, and so on."""
    turns = [False] * 5 + [True] * 3
    assert starving(16, starvation_iterations=5, quantum_iterations=3) == turns * 2


def test_learning_to_rank_without_its_guard_starves() -> None:
    assert starving(500, starvation_iterations=0) == [False] * 500
    assert make_scheduler("learning_to_rank").every_iteration
    assert not make_scheduler("learning_to_rank", starvation_iterations=0).every_iteration


def test_learning_to_rank_orders_the_starved_by_score() -> None:
    asked = Asked(make_scheduler("learning_to_rank", starvation_iterations=1))
    rows = rows_of(3, predicted_output_tokens=[1001, 1000, 10])
    assert asked.order(rows) == [2, 1, 0]
    rows[:, SERVED] = [0, 0, 1]
    assert asked.order(rows) == [1, 0, 2]


def test_keys_ahead_tell_predictions_apart() -> None:
    """However far ahead, an order by whole tokens is kept."""
    asked = Asked(make_scheduler("trail", c=0.0))
    rows = rows_of(2, predicted_remaining_tokens=[2**30 + 1, 2**30], place=RUNNING)
    assert np.diff(asked.keys(rows)) == [-1.0]
