"""Work that may hang, hangs in a thread of its own."""

import threading
from typing import Any

import pytest

from servegym.agents.serving.deadline import PATIENCE, PAUSE_S, Deadline, DeadlineInPlace, limit

LONG_S = 60.0


class Held:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(LONG_S)
        return "late"


def _until_free(deadline: Deadline, work: Any) -> Any:
    """What comes of work once nobody else's is in the way."""
    for _ in range(10_000):
        try:
            return deadline.run(work)
        except TimeoutError:
            threading.Event().wait(0.001)
    raise AssertionError("never free")


def test_answers_and_errors_come_back() -> None:
    deadline = Deadline(LONG_S)
    assert [deadline.run(lambda i=i: i * i) for i in range(100)] == [i * i for i in range(100)]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            deadline.run(lambda: 1 // 0)
        assert deadline.run(lambda: None) is None


def test_the_late_one_is_waited_for_once_and_its_answer_is_nobodys() -> None:
    deadline, held, begun = Deadline(0.02), Held(), []
    with pytest.raises(TimeoutError):
        deadline.run(held)
    assert held.begun.wait(LONG_S)
    for i in range(100):
        with pytest.raises(TimeoutError):
            deadline.run(lambda i=i: begun.append(i))
    assert not begun
    held.go.set()
    deadline.limit_s = LONG_S
    assert _until_free(deadline, lambda: "mine") == "mine"
    assert deadline.run(lambda: "next") == "next"


def test_a_late_error_is_nobodys_either() -> None:
    deadline, held = Deadline(0.02), Held()

    def fail() -> None:
        held()
        raise ValueError

    with pytest.raises(TimeoutError):
        deadline.run(fail)
    held.go.set()
    deadline.limit_s = LONG_S
    assert _until_free(deadline, lambda: 7) == 7


def test_hanging_costs_one_thread() -> None:
    before = threading.active_count()
    deadline, held = Deadline(0.001), Held()
    for _ in range(50):
        with pytest.raises(TimeoutError):
            deadline.run(held)
    assert threading.active_count() <= before + 1
    held.go.set()


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def work(self, takes_s: float) -> Any:
        """Work that takes so long."""

        def run() -> float:
            self.now_s += takes_s
            return takes_s

        return run


def test_in_place_a_late_answer_is_used_and_who_is_always_late_is_left_alone() -> None:
    clock = Clock()
    deadline = DeadlineInPlace(0.01, clock)
    for takes_s in (0.02, 0.02, 0.001, 0.02, 0.02):
        assert deadline.run(clock.work(takes_s)) == takes_s
    assert deadline.run(clock.work(0.02)) == 0.02  # the third in a row
    for _ in range(10):
        with pytest.raises(TimeoutError):
            deadline.run(clock.work(0.001))
    clock.now_s += PAUSE_S
    assert deadline.run(clock.work(0.001)) == 0.001


def test_in_place_errors_come_back_and_count_as_late_where_they_are() -> None:
    clock = Clock()
    deadline = DeadlineInPlace(0.01, clock)

    def fails() -> None:
        clock.now_s += 0.02
        raise ZeroDivisionError

    for _ in range(PATIENCE):
        with pytest.raises(ZeroDivisionError):
            deadline.run(fails)
    with pytest.raises(TimeoutError):
        deadline.run(fails)


def test_a_bounded_policy_needs_no_thread() -> None:
    class Bounded:
        bounded = True

    assert isinstance(limit(0.01, Bounded()), DeadlineInPlace)
    assert isinstance(limit(0.01, object()), Deadline)
    assert limit(None, Bounded()) is None
