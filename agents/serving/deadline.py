"""A limit on how long a policy may think, whatever it does."""

import threading
from collections.abc import Callable
from typing import Any


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
