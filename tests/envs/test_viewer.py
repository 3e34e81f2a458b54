"""Pictures of every environment, by Gymnasium's conventions."""

import sys
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from servegym.costmodels.errors import InputError
from servegym.envs import viewer as viewer_module
from servegym.envs.batching.env import BatchingEnv
from servegym.envs.checks import _sample_legal_actions
from servegym.envs.deferred_batching.env import DeferredBatchingEnv
from servegym.envs.dynamic_batching.env import DynamicBatchingEnv
from servegym.envs.elastic_sequence_parallel.env import ElasticSequenceParallelEnv
from servegym.envs.routing.env import RoutingEnv
from servegym.envs.two_level.env import TwoLevelEnv
from servegym.envs.viewer import HEIGHT, WAITING, WIDTH, Frame, Viewer, usable_render_modes
from tests.envs.test_vector import KINDS, env_id

SINGLES = {
    "Routing": RoutingEnv,
    "Batching": BatchingEnv,
    "Batching-continuous": BatchingEnv,
    "DeferredBatching": DeferredBatchingEnv,
    "ElasticSequenceParallel": ElasticSequenceParallelEnv,
    "TwoLevel": TwoLevelEnv,
    "DynamicBatching": DynamicBatchingEnv,
}
every_kind = pytest.mark.parametrize("kind", SINGLES)


def pixels(frame: Frame, colour: str) -> np.ndarray:
    """Where a picture has a colour, bool (HEIGHT, WIDTH)."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    there: np.ndarray = (frame == rgb).all(axis=2)
    return there


def made(kind: str, render_mode: str | None = "rgb_array") -> gym.Env[Any, Any]:
    """An environment that draws."""
    return gym.make(env_id(kind), render_mode=render_mode, **KINDS[kind][1]).unwrapped


def first_legal(env: gym.Env[Any, Any]) -> Any:
    """The first replica or waiting request; of a continuous action, everything."""
    if isinstance(env.action_space, gym.spaces.Box):
        return np.ones(env.action_space.shape)
    return int(np.argmax(env.action_masks()))  # type: ignore[attr-defined]


def last_legal(env: gym.Env[Any, Any]) -> Any:
    """Runs whatever runs, as soon as anything does."""
    if isinstance(env.action_space, gym.spaces.Box):
        return np.ones(env.action_space.shape)
    return int(np.flatnonzero(env.action_masks())[-1])  # type: ignore[attr-defined]


@every_kind
def test_passes_gymnasiums_checker_with_its_render_modes(kind: str) -> None:
    env = made(kind)
    assert env.metadata["render_fps"] > 0
    _sample_legal_actions(env)
    check_env(env)


@every_kind
def test_every_decision_changes_the_picture(kind: str) -> None:
    env = made(kind)
    env.reset(seed=0)
    frames = [env.render()]
    for _ in range(8):
        env.step(first_legal(env))
        frames.append(env.render())
    for before, after in pairwise(frames):
        assert isinstance(before, np.ndarray) and isinstance(after, np.ndarray)
        assert after.shape == (HEIGHT, WIDTH, 3) and after.dtype == np.uint8
        assert (before != after).any()
    again = env.render()
    np.testing.assert_array_equal(frames[-1], again)  # nothing has happened between


@pytest.mark.compiled
@every_kind
def test_whole_episodes_are_drawn(kind: str) -> None:
    """The last instant, too; the curve of the past begins anew with each episode."""
    env = made(kind)
    for _ in range(2):
        env.reset(seed=0)
        env.render()
        over = False
        while not over:
            over = env.step(last_legal(env))[2]
        assert isinstance(env.render(), np.ndarray)
        past = env._viewer._parts[-1]._past  # type: ignore[attr-defined]
        assert len(past) == 2 and past[0][0] < past[1][0]
    env.close()


def test_without_a_mode_nothing_is_drawn() -> None:
    env = made("Batching", None)
    env.reset(seed=0)
    assert env.render() is None
    env.close()


@every_kind
def test_other_modes_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="render_mode = ansi: must be one of human, rgb_array"):
        SINGLES[kind](render_mode="ansi", **KINDS[kind][1])


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert usable_render_modes() == ["rgb_array"]
    with pytest.raises(InputError, match="render_mode = human: matplotlib cannot open a window here"):
        Viewer("human", "a fleet", lambda figure: [])


@every_kind
def test_human_mode_draws_after_every_reset_and_step(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a window that is none: tests have no display."""
    shown: list[float] = []
    draw = Viewer.draw
    monkeypatch.setattr(viewer_module, "_window", lambda title: viewer_module._canvas())
    monkeypatch.setattr(viewer_module, "RENDER_FPS", 1000)
    monkeypatch.setattr(
        Viewer, "draw", lambda self, facts, parts: (shown.append(parts[-1][0]), draw(self, facts, parts))[1]
    )
    env = SINGLES[kind](render_mode="human", **KINDS[kind][1])
    env.reset(seed=0)
    for _ in range(3):
        env.step(first_legal(env))
    assert len(shown) == 4 and shown == sorted(shown)
    assert env.render() is None
    assert env._viewer is not None
    frame = np.array(env._viewer._figure.canvas.buffer_rgba())[:, :, :3]
    assert pixels(frame, WAITING).any()
    env.close()
    env.close()
