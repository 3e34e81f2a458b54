"""Pictures of a fleet: bars as long as what they stand for."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.envs.routing.env import RoutingEnv
from servegym.envs.routing.viewer import KV, KV_ALMOST_FULL, FleetSnapshot, lay_out
from servegym.envs.scenario import load_scenario
from servegym.envs.viewer import HEIGHT, RUNNING, WAITING, WIDTH, Frame, Viewer
from tests.envs import test_viewer

SMALL = load_scenario("generated_8xh100", ("scenario.episode.requests=40", "scenario.fleet.replicas=3"))
TOP = slice(int(0.2 * HEIGHT), int(0.55 * HEIGHT))
"""Rows of the picture with the bars of requests, without those of the KV cache and the curve."""

IDLE = FleetSnapshot(np.zeros(4), np.zeros(4), np.zeros(4), np.ones(4, bool), -1)


def pixels(frame: Frame, colour: str, rows: slice = slice(None)) -> np.ndarray:
    """How many pixels of a colour each quarter of the width holds, (4,)."""
    hits = test_viewer.pixels(frame, colour)[rows].sum(axis=0)
    inside = hits[int(0.075 * WIDTH) : int(0.975 * WIDTH)]
    return np.array([part.sum() for part in np.array_split(inside, 4)])


def draw(viewer: Viewer, time_s: float, fleet: FleetSnapshot) -> Frame:
    """The picture of an instant."""
    frame = viewer.draw([("time", f"{time_s} s")], [fleet, fleet.past(time_s)])
    assert frame is not None
    return frame


def a_viewer() -> Viewer:
    """Of four replicas."""
    return Viewer("rgb_array", "a fleet", lambda figure: lay_out(figure, 4))


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    viewer = a_viewer()
    first = draw(viewer, 0.0, IDLE)
    busy = replace(
        IDLE,
        running=np.array([10.0, 20.0, 0.0, 0.0]),
        waiting=np.array([0.0, 5.0, 10.0, 0.0]),
        kv_share=np.array([0.4, 0.8, 0.95, 0.0]),
    )
    for _ in range(2):  # on a new background and on the one kept
        frame = draw(viewer, 1.0, busy)
        assert frame.shape == first.shape == (HEIGHT, WIDTH, 3)
        assert frame.dtype == np.uint8
        running, waiting = pixels(frame, RUNNING, TOP), pixels(frame, WAITING, TOP)
        assert running[1] / running[0] == pytest.approx(2, rel=0.05)
        assert waiting[1] / running[0] == pytest.approx(0.5, rel=0.05)
        assert waiting[2] / running[0] == pytest.approx(1, rel=0.05)
        assert running[3] == waiting[3] == running[2] == waiting[0] == 0
        kv = pixels(frame, KV)
        assert kv[1] / kv[0] == pytest.approx(2, rel=0.1)
        assert pixels(frame, KV_ALMOST_FULL)[2] > 2 * kv[0]
    for colour in (RUNNING, KV):
        assert not pixels(first, colour, TOP).any()
    again = draw(viewer, 2.0, IDLE)
    assert not pixels(again, RUNNING, TOP).any()


def test_a_replica_that_is_not_available_and_the_one_chosen_show() -> None:
    viewer = a_viewer()
    frames = [
        draw(viewer, 0.0, each)
        for each in (
            IDLE,
            replace(IDLE, available=np.array([True, False, True, True])),
            replace(IDLE, chosen=2),
        )
    ]
    for frame, quarter in ((frames[1], 1), (frames[2], 2)):
        changed = (frame != frames[0]).any(axis=(0, 2))[int(0.075 * WIDTH) : int(0.975 * WIDTH)]
        parts = [bool(part.any()) for part in np.array_split(changed, 4)]
        assert parts == [i == quarter for i in range(4)]


def test_frames_follow_the_episode() -> None:
    env = RoutingEnv(SMALL, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    for _ in range(10):
        env.step(np.int64(1))
    after = env.render()
    assert before is not None and after is not None
    assert not pixels(before, RUNNING, TOP).any() and pixels(after, RUNNING, TOP).any()
    terminated = False
    while not terminated:
        terminated = env.step(np.int64(0))[2]
    assert env.render() is not None
    env.close()
