"""A limit on how long a policy may think, whatever it does."""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

PATIENCE = 3
"""Late answers in a row after which a policy that is asked in place is left alone."""

PAUSE_S = 1.0
"""How long it is left alone."""


class Limit(Protocol):
    """Runs functions that must not take long."""

    def run(self, work: Callable[[], Any]) -> Any:
        """What `work` returns or raises; TimeoutError where the caller must do without.

        To be called by one thread at a time.
        """


def limit(limit_s: float | None, policy: object) -> Limit | None:
    """How a policy is held to a limit: in place if its class says that it is `bounded`; None: not at all."""
    if limit_s is None:
        return None
    return DeadlineInPlace(limit_s) if getattr(policy, "bounded", False) else Deadline(limit_s)


class DeadlineInPlace:
    """Runs functions that end by themselves, which takes no thread, and leaves them alone if they are slow.

    An answer that comes late is there all the same, and is used. After PATIENCE of them in a row nothing is
    run for PAUSE_S: who is late now and then has met a busy machine, who always is would hold up everybody.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.limit_s = limit_s
        self._clock = clock
        self._late = 0
        self._paused_until_s = -float("inf")

    def run(self, work: Callable[[], Any]) -> Any:
        """As Limit has it."""
        began_s = self._clock()
        if began_s < self._paused_until_s:
            raise TimeoutError
        try:
            return work()
        finally:
            ended_s = self._clock()
            self._late = self._late + 1 if ended_s - began_s > self.limit_s else 0
            if self._late == PATIENCE:
                self._late, self._paused_until_s = 0, ended_s + PAUSE_S


class Deadline:
    """Runs functions one at a time in a thread of its own and waits `limit_s` seconds for each.

    While one is late, nobody else's is begun: a policy that hangs costs one thread and one wait.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._work: Callable[[], Any] | None = None
        self._answer: Any = None
        self._error: Exception | None = None
        self._asked, self._answered = threading.Semaphore(0), threading.Semaphore(0)
        self._late = False
        threading.Thread(target=self._run, name="servegym policy", daemon=True).start()

    def run(self, work: Callable[[], Any]) -> Any:
        """What `work` returns or raises; TimeoutError where it takes longer, or another one still does.

        To be called by one thread at a time.
        """
        if self._late:
            if not self._answered.acquire(blocking=False):
                raise TimeoutError
            self._late = False
        self._work = work
        self._asked.release()
        if not self._answered.acquire(timeout=self.limit_s):
            self._late = True
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._answer

    def _run(self) -> None:
        while True:
            self._asked.acquire()
            assert self._work is not None
            self._answer = self._error = None
            try:
                self._answer = self._work()
            except Exception as error:  # it is the caller's to handle
                self._error = error
            self._answered.release()
