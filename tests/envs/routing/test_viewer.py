"""Pictures of a fleet: bars as long as what they stand for, and Gymnasium's conventions."""

import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from servegym.costmodels.errors import InputError
from servegym.envs.routing import viewer as viewer_module
from servegym.envs.routing.env import RoutingEnv
from servegym.envs.routing.viewer import (
    HEIGHT,
    KV,
    KV_ALMOST_FULL,
    RUNNING,
    WAITING,
    WIDTH,
    Frame,
    Snapshot,
    Viewer,
    usable_render_modes,
)
from servegym.envs.scenario import load_scenario

ENV_ID = "servegym.envs:servegym/Routing-v0"
SMALL = load_scenario("generated_8xh100", ("scenario.episode.requests=40", "scenario.fleet.replicas=3"))
TOP = slice(int(0.2 * HEIGHT), int(0.55 * HEIGHT))
"""Rows of the picture with the bars of requests, without those of the KV cache and the curve."""

IDLE = Snapshot(0.0, np.zeros(4), np.zeros(4), np.zeros(4), np.ones(4, bool), -1, (("time", "0 s"),))


def pixels(frame: Frame, colour: str, rows: slice = slice(None)) -> np.ndarray:
    """How many pixels of a colour each quarter of the width holds, (4,)."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    hits = (frame[rows] == rgb).all(axis=2).sum(axis=0)
    inside = hits[int(0.075 * WIDTH) : int(0.975 * WIDTH)]
    return np.array([part.sum() for part in np.array_split(inside, 4)])


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    viewer = Viewer("rgb_array", "a fleet", 4)
    first = viewer.draw(IDLE)
    busy = replace(
        IDLE,
        time_s=1.0,
        running=np.array([10.0, 20.0, 0.0, 0.0]),
        waiting=np.array([0.0, 5.0, 10.0, 0.0]),
        kv_share=np.array([0.4, 0.8, 0.95, 0.0]),
    )
    for _ in range(2):  # on a new background and on the one kept
        frame = viewer.draw(busy)
        assert first is not None and frame is not None
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
    again = viewer.draw(replace(IDLE, time_s=2.0))
    assert again is not None and not pixels(again, RUNNING, TOP).any()


def test_a_replica_that_is_not_available_and_the_one_chosen_show() -> None:
    viewer = Viewer("rgb_array", "a fleet", 4)
    frames = [
        viewer.draw(each)
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


def test_passes_gymnasiums_checker_with_its_render_modes() -> None:
    env = gym.make(ENV_ID, scenario=SMALL, render_mode="rgb_array")
    assert env.metadata["render_fps"] > 0
    check_env(env.unwrapped)


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


def test_without_a_mode_nothing_is_drawn() -> None:
    env = RoutingEnv(SMALL)
    env.reset(seed=0)
    assert env.render() is None
    env.close()


def test_other_modes_are_refused() -> None:
    with pytest.raises(InputError, match="render_mode = ansi: must be one of human, rgb_array"):
        RoutingEnv(SMALL, render_mode="ansi")


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert usable_render_modes() == ["rgb_array"]
    with pytest.raises(InputError, match="render_mode = human: matplotlib cannot open a window here"):
        Viewer("human", "a fleet", 4)


def test_human_mode_draws_after_every_reset_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a window that is none: tests have no display."""
    shown: list[float] = []
    update = Viewer._update
    monkeypatch.setattr(viewer_module, "_window", lambda title: viewer_module._canvas())
    monkeypatch.setattr(viewer_module, "RENDER_FPS", 1000)
    monkeypatch.setattr(
        Viewer, "_update", lambda self, snapshot: (shown.append(snapshot.time_s), update(self, snapshot))
    )
    env = RoutingEnv(SMALL, render_mode="human")
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.int64(0))
    assert len(shown) == 4 and shown == sorted(set(shown))
    assert env.render() is None
    assert env._viewer is not None
    frame = np.array(env._viewer._figure.canvas.buffer_rgba())[:, :, :3]
    assert pixels(frame, RUNNING, TOP).any()
    env.close()
    env.close()
