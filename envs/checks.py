"""The checker that every environment passes, ours and third parties'."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env


def check_environment(env_id: str, *, episodes: int = 1, **kwargs: Any) -> None:
    """Raises AssertionError for the first thing wrong with `gymnasium.make(env_id, **kwargs)`.

    Gymnasium's own checks; random legal play to the end of each of `episodes` episodes, with every
    observation in its space and everything finite; the same again, with two copies played in turn, must
    give the same to the bit (seed 0); another seed must give something else.
    """
    env = gym.make(env_id, **kwargs).unwrapped
    _sample_legal_actions(env)
    check_env(env, skip_render_check=True)
    first = gym.make(env_id, **kwargs).unwrapped
    second = gym.make(env_id, **kwargs).unwrapped
    _play_in_turn(first, second, seed=0, episodes=episodes)
    observation, _ = first.reset(seed=0)
    other, _ = second.reset(seed=1)
    differs = not _equal(observation, other)
    assert differs or _rewards(first) != _rewards(second), "seeds 0 and 1 give the same episode"


def _sample_legal_actions(env: gym.Env[Any, Any]) -> None:
    """Gymnasium's checks sample any action, and one does so after `seed`, before the `reset` of that seed."""
    rng = np.random.default_rng(0)
    env.action_space.sample = lambda *_, **__: _legal_action(env, rng)  # type: ignore[method-assign]
    env.action_space.seed = lambda seed=None: env.reset(seed=seed)  # type: ignore[method-assign]


def _rewards(env: gym.Env[Any, Any]) -> list[Any]:
    """Of the first 20 steps with legal actions."""
    rng = np.random.default_rng(0)
    return [env.step(_legal_action(env, rng))[1] for _ in range(20)]


def _play_in_turn(first: gym.Env[Any, Any], second: gym.Env[Any, Any], seed: int, episodes: int) -> None:
    """Plays two copies with the same legal actions, each step in one and then in the other."""
    rng = np.random.default_rng(seed)
    for episode in range(episodes):
        episode_seed = seed if episode == 0 else None
        observation, _ = first.reset(seed=episode_seed)
        copy, _ = second.reset(seed=episode_seed)
        over = False
        while not over:
            assert first.observation_space.contains(observation), f"not in the space: {observation}"
            assert _equal(observation, copy), "the same seed gives two different observations"
            action = _legal_action(first, rng)
            observation, reward, terminated, truncated, _ = first.step(action)
            copy, copied_reward, copied_terminated, copied_truncated, _ = second.step(action)
            assert math.isfinite(reward), f"reward {reward} is not finite"
            assert (reward, terminated, truncated) == (copied_reward, copied_terminated, copied_truncated), (
                "the same seed and actions give two different outcomes"
            )
            over = terminated or truncated


def _legal_action(env: gym.Env[Any, Any], rng: np.random.Generator) -> Any:
    """Any of the space, or of those that `action_masks` allows."""
    space = env.action_space
    if isinstance(space, gym.spaces.Box):
        return rng.uniform(space.low, space.high).astype(space.dtype)
    masks = getattr(env, "action_masks", None)
    legal = np.flatnonzero(masks()) if masks is not None else np.arange(env.action_space.n)  # type: ignore[attr-defined]
    assert len(legal) > 0, "no action is legal"
    return np.int64(rng.choice(legal))


def _equal(one: Any, other: Any) -> bool:
    """Equality to the bit of nested observations."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return np.array_equal(one, other)
