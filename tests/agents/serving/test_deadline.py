"""Work that may hang, hangs in a thread of its own."""

import threading
from typing import Any

import pytest

from servegym.agents.serving.deadline import Deadline

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
