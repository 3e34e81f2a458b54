"""Pictures of an engine: bars as long as what they stand for, in the colour of the request's state."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.envs.batching.viewer import CLAIMED, DECODING, GENERATED, PREFILLING, EngineSnapshot, lay_out
from servegym.envs.sim.llm import decision_view as view
from servegym.envs.sim.llm.decisions import NUM_ROWS, VISIBLE
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.viewer import WAITING, WIDTH, Frame, Viewer
from tests.envs.test_viewer import pixels

ENGINE = Engine(max_num_batched_tokens=400, max_num_seqs=8, num_kv_blocks=100, block_size=16)
REQUESTS, METERS = slice(110, 335), slice(380, 455)
"""Rows of the picture."""
MIDDLE = WIDTH * (0.075 + 0.9 / 2)
"""The column between those running and those waiting."""


def picture(snapshot: EngineSnapshot | None) -> Frame:
    """Drawn by itself."""
    viewer = Viewer("rgb_array", "an engine", lay_out)
    frame = viewer.draw([("time", "0 s")], [snapshot, (0.0, 0.0, 0.0)])
    assert frame is not None
    return frame


def count(frame: Frame, colour: str, rows: slice) -> int:
    """Pixels of a colour, those of legends left out."""
    return int(pixels(frame, colour)[rows].sum())


def snapshot(rows: dict[int, dict[int, float]], **engine: float) -> EngineSnapshot:
    """Rows by number, columns by number; columns of the engine by name."""
    seen = np.zeros((NUM_ROWS, view.ROW_FEATURES), np.float32)
    for row, columns in rows.items():
        for column, value in columns.items():
            seen[row, column] = value
    names = [name for name, _ in view.ENGINE_COLUMNS]
    numbers = np.array([engine.get(name, 0.0) for name in names], np.float32)
    return EngineSnapshot(numbers, seen, ENGINE, -1, "an engine")


def tokens(state: int, prompt: int, known: int, computed: int) -> dict[int, float]:
    """A request."""
    return {state: 1, view.PROMPT_TOKENS: prompt, view.KNOWN_TOKENS: known, view.COMPUTED_TOKENS: computed}


BUSY = snapshot(
    {
        0: tokens(view.IS_WAITING, 400, 400, 0),
        3: tokens(view.IS_WAITING, 200, 200, 0),
        VISIBLE: tokens(view.IS_PREFILLING, 400, 400, 100),
        VISIBLE + 1: tokens(view.IS_DECODING, 200, 300, 299),
    },
    running=2,
    kv_used_blocks=50,
    unclaimed_blocks=25,
    unclaimed_tokens=100,
)


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    frame = picture(BUSY)
    top = slice(130, 330)  # below the legend
    unit = count(frame, GENERATED, top) / 100
    assert unit > 0
    for colour, expected in ((WAITING, 600), (PREFILLING, 100), (DECODING, 200)):
        assert count(frame, colour, top) / unit == pytest.approx(expected, rel=0.05)
    assert np.flatnonzero(pixels(frame, WAITING)[top].any(axis=0)).min() > MIDDLE
    for colour in (PREFILLING, DECODING, GENERATED):
        assert np.flatnonzero(pixels(frame, colour)[top].any(axis=0)).max() < MIDDLE


def test_what_is_used_and_claimed() -> None:
    """2 of 8 seats, 50 and 25 of 100 blocks, 300 of 400 tokens: a whole line is 1."""
    frame = picture(BUSY)
    used, claimed = count(frame, DECODING, METERS), count(frame, CLAIMED, METERS)
    line = used / (2 / 8 + 50 / 100)
    assert claimed / line == pytest.approx(25 / 100 + 300 / 400, rel=0.05)


def test_the_request_last_decided_on_is_marked() -> None:
    """Above its bar, and nowhere else."""
    plain = picture(BUSY)
    for row, left in ((3, False), (VISIBLE + 1, True)):
        marked = picture(replace(BUSY, chosen=row))
        columns = np.flatnonzero((plain != marked).any(axis=(0, 2)))
        assert 0 < len(columns) < 20
        assert (columns.max() < MIDDLE) == left


def test_no_engine() -> None:
    """Nothing in use and nobody there."""
    frame = picture(None)
    for colour in (CLAIMED, DECODING):
        assert count(frame, colour, METERS) == 0
    assert count(frame, WAITING, slice(130, 330)) == 0
