"""Shards simulated by processes of this machine; of one that dies only the shard is begun again."""

import contextlib
import multiprocessing
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from servegym.costmodels.errors import InputError
from servegym.experiments.studies.episodes import Episodes
from servegym.experiments.studies.shards import Shard, write_shard
from servegym.experiments.studies.study_config import StudyConfig

ATTEMPTS = 3
"""How often a shard is begun before the study gives up."""

Report = Callable[[Shard, int], None]
"""Told how many episodes of a shard are done; fewer than before where it is begun again."""


class _Failure(NamedTuple):
    """An exception in a worker: it would come again, so nobody tries."""

    is_input_error: bool
    text: str


class _Worker:
    """A process, our end of the pipe to it, and its shard. Without a shard it would not have been started."""

    def __init__(self, settings: StudyConfig, source: str, out: Path, shard: Shard) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, its_end = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(its_end, settings, source, out))
        with _interrupts_blocked():
            self.process.start()
        its_end.close()  # so that the pipe ends with the process
        self.shard = shard
        self.give(shard)

    def give(self, shard: Shard) -> None:
        """A worker that died is noticed where its answer is read."""
        self.shard = shard
        with contextlib.suppress(OSError):
            self.pipe.send(shard)

    def end(self) -> None:
        """Stops it at once, in whatever it does."""
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def simulate_locally(
    settings: StudyConfig, source: str, out: Path, shards: Sequence[Shard], workers: int, report: Report
) -> None:
    """Writes the shards, `workers` at a time.

    InputError where a shard cannot be simulated, or its worker died ATTEMPTS times. Whatever ends this, no
    worker is left.
    """
    waiting = deque(shards)
    begun: Counter[Shard] = Counter()

    def next_shard() -> Shard:
        shard = waiting.popleft()
        begun[shard] += 1
        return shard

    busy: dict[Connection, _Worker] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = _Worker(settings, source, out, next_shard())
                busy[worker.pipe] = worker
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                worker = busy[pipe]
                try:
                    done = pipe.recv()
                except (EOFError, OSError):
                    del busy[pipe]
                    worker.end()
                    _refuse_after(begun[worker.shard], worker)
                    report(worker.shard, 0)
                    waiting.appendleft(worker.shard)
                    continue
                if isinstance(done, _Failure):
                    raise (InputError if done.is_input_error else RuntimeError)(done.text)
                if done is not None:
                    report(worker.shard, done)
                elif waiting:
                    worker.give(next_shard())
                else:
                    del busy[pipe]
                    worker.end()
    finally:
        for worker in busy.values():
            worker.end()


def gave_up(shard: Shard, how: str) -> InputError:
    """What is said of a shard whose workers died one after another, `how` at last."""
    return InputError(
        f"{shard}: its worker died {ATTEMPTS} times, at last by {how}; is there memory for so many workers? "
        "What is complete stays, and the same command goes on from there"
    )


def _refuse_after(attempts: int, worker: _Worker) -> None:
    if attempts >= ATTEMPTS:
        code = worker.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        raise gave_up(worker.shard, how)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """For good in processes started meanwhile: Ctrl-C reaches all, and who started them ends them."""
    resource_tracker.ensure_running()  # which would unblock them when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, settings: StudyConfig, source: str, out: Path) -> None:
    """A worker: writes the shards that come through the pipe, tells of each episode, and None at the end."""
    try:
        episodes = Episodes(settings)
        episodes.require_source(source)
        while True:
            write_shard(episodes, pipe.recv(), out, pipe.send)
            pipe.send(None)
    except (EOFError, BrokenPipeError):  # who started us has gone
        return
    except Exception as error:
        is_input_error = isinstance(error, InputError)
        pipe.send(_Failure(is_input_error, str(error) if is_input_error else traceback.format_exc()))
