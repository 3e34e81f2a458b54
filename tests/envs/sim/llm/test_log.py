"""The log of iterations: counts first, records then, sorts and comes back from a file."""

from pathlib import Path

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit
from servegym.envs.sim.llm.log import (
    RECOMPUTE,
    SWAP,
    IterationLog,
    Log,
    counting_log,
    log_entry,
    log_iteration,
    log_preemption,
    no_log,
    recording_log,
    retract_entry,
    void_iteration,
)


@jit
def play(log: Log) -> None:
    """Two replicas: the later iteration of replica 1 is scheduled first; request 4 is taken out again."""
    log_entry(log, 5, 1, 33, 0, False)
    log_entry(log, 4, 1, 20, 0, False)
    log_entry(log, 6, 30, 0, 16, True)
    log_preemption(log, 0.5, 1, 4, SWAP)
    retract_entry(log, 4)
    log_iteration(log, 1, 0.5, 0.75, 31, 1, 6)
    log_preemption(log, 0.25, 0, 7, RECOMPUTE)
    log_iteration(log, 0, 0.25, 0.5, 0, 0, 0)
    log_entry(log, 3, 7, 0, 0, True)
    log_iteration(log, 0, 0.5, 1.0, 7, 0, 1)


def recorded() -> IterationLog:
    counted = counting_log()
    play(counted)
    log = recording_log(counted)
    play(log)
    return IterationLog.of(log)


def test_iterations_come_by_start_then_replica_with_their_entries():
    log = recorded()
    assert log.iterations[
        ["start_s", "replica", "end_s", "tokens", "decodes", "kv_used_blocks"]
    ].tolist() == [
        (0.25, 0, 0.5, 0, 0, 0),
        (0.5, 0, 1.0, 7, 0, 1),
        (0.5, 1, 0.75, 31, 1, 6),
    ]
    fields = ["request", "tokens", "computed", "hit_tokens", "is_prefill"]
    assert log.entries_of(0).size == 0
    assert log.entries_of(1)[fields].tolist() == [(3, 7, 0, 0, True)]
    assert log.entries_of(2)[fields].tolist() == [(5, 1, 33, 0, False), (6, 30, 0, 16, True)]
    assert log.preemptions[["time_s", "replica", "request", "kind"]].tolist() == [
        (0.25, 0, 7, RECOMPUTE),
        (0.5, 1, 4, SWAP),
    ]


def test_an_iteration_that_a_failure_cuts_short_is_taken_back():
    @jit
    def play_and_fail(log: Log) -> None:
        play(log)
        void_iteration(log, 1)

    counted = counting_log()
    play_and_fail(counted)
    log = recording_log(counted)
    play_and_fail(log)
    left = IterationLog.of(log)
    assert left.iterations["replica"].tolist() == [0, 0]
    assert left.entries["request"].tolist() == [3]


def test_a_log_that_is_off_stays_as_it_is():
    log = no_log()
    play(log)
    assert not log.counts.any()


def test_a_log_that_only_counted_is_not_taken_for_a_record():
    log = counting_log()
    play(log)
    with pytest.raises(ValueError, match=r"room for \[0, 0, 0\], and \[3, 3, 2\] were counted"):
        IterationLog.of(log)


def test_round_trip(tmp_path: Path):
    log = recorded()
    log.save(tmp_path / "log.npz")
    again = IterationLog.load(tmp_path / "log.npz")
    for name in ("iterations", "entries", "preemptions"):
        np.testing.assert_array_equal(getattr(again, name), getattr(log, name))
    assert [path.name for path in tmp_path.iterdir()] == ["log.npz"]


def test_another_file_is_refused(tmp_path: Path):
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "other.npz", iterations=np.zeros(1), entries=np.zeros(1), preemptions=np.zeros(1))
    np.savez(tmp_path / "less.npz", iterations=np.zeros(1))
    for name in ("text.npz", "other.npz", "less.npz", "absent.npz"):
        with pytest.raises(InputError, match=name):
            IterationLog.load(tmp_path / name)
