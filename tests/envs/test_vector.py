"""The native vector form of every environment: the same episodes as single environments, to the bit."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from servegym.envs.batch_scenario import load_batch_scenario
from servegym.envs.batching.vector import BatchingVectorEnv
from servegym.envs.deferred_batching.vector import DeferredBatchingVectorEnv
from servegym.envs.dynamic_batching.scenario import load_dynamic_batching
from servegym.envs.dynamic_batching.vector import DynamicBatchingVectorEnv
from servegym.envs.elastic_scenario import load_elastic_scenario
from servegym.envs.elastic_sequence_parallel.vector import ElasticSequenceParallelVectorEnv
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import load_scenario
from servegym.envs.two_level.vector import TwoLevelVectorEnv


def small(replicas: int) -> dict[str, Any]:
    """Few requests and seats."""
    overrides = (
        "scenario.episode.requests=12",
        f"scenario.fleet.replicas={replicas}",
        "scenario.engine.max_num_seqs=6",
        "scenario.engine.max_num_batched_tokens=512",
    )
    return {"scenario": load_scenario("generated_8xh100", overrides)}


def batches() -> dict[str, Any]:
    """Few requests, more than three GPUs can serve."""
    overrides = (
        "scenario.episode.requests=40",
        "scenario.fleet.num_gpus=3",
        "scenario.workload.rate_rps=2500",
    )
    return {"scenario": load_batch_scenario("resnet50_8gpu", overrides)}


def elastic() -> dict[str, Any]:
    """Few requests, of very different lengths."""
    return {"scenario": load_elastic_scenario("mixed_8a800", ("scenario.episode.requests=12",))}


KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "Routing": (RoutingVectorEnv, small(3)),
    "Routing-flat": (RoutingVectorEnv, small(3) | {"slots": 4, "flat": True}),
    "Batching": (BatchingVectorEnv, small(1)),
    "Batching-flat": (BatchingVectorEnv, small(1) | {"flat": True}),
    "Batching-continuous": (BatchingVectorEnv, small(1) | {"action": "continuous"}),
    "DeferredBatching": (DeferredBatchingVectorEnv, batches()),
    "DeferredBatching-flat": (DeferredBatchingVectorEnv, batches() | {"flat": True}),
    "ElasticSequenceParallel": (ElasticSequenceParallelVectorEnv, elastic()),
    "ElasticSequenceParallel-flat": (ElasticSequenceParallelVectorEnv, elastic() | {"flat": True}),
    "TwoLevel": (TwoLevelVectorEnv, small(2)),
    "TwoLevel-flat": (TwoLevelVectorEnv, small(2) | {"flat": True}),
    "DynamicBatching": (
        DynamicBatchingVectorEnv,
        {"scenario": load_dynamic_batching("inoue_p4", ("scenario.requests=30", "scenario.min_batch=2"))},
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def env_id(kind: str) -> str:
    """Gymnasium's name of it."""
    return f"servegym.envs:servegym/{kind.split('-')[0]}-v0"


def assert_same(one: Any, other: Any) -> None:
    """Equality to the bit of observations."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)
    else:
        np.testing.assert_array_equal(one, other)


def of(observations: Any, k: int) -> Any:
    """The observation of environment k."""
    if isinstance(observations, dict):
        return {key: value[k] for key, value in observations.items()}
    return observations[k]


def some_actions(env: gym.vector.VectorEnv[Any, Any, Any], rng: np.random.Generator) -> np.ndarray:
    """At random; legal ones, if there are others."""
    if isinstance(env.single_action_space, gym.spaces.Box):
        return rng.uniform(-1, 1, env.action_space.shape)
    masks = env.action_masks()  # type: ignore[attr-defined]
    return (masks * rng.random(masks.shape)).argmax(axis=1)


@pytest.mark.compiled
@every_kind
@pytest.mark.parametrize("num_envs", [1, 3, 7])
def test_equal_to_single_environments(kind: str, num_envs: int) -> None:
    """Environment k with seed s gives what a single one with seed s + k gives."""
    make, arguments = KINDS[kind]
    rng = np.random.default_rng(5)
    vector = make(num_envs, **arguments)
    observations, _ = vector.reset(seed=0)
    singles = [gym.make(env_id(kind), **arguments).unwrapped for _ in range(num_envs)]
    for k, single in enumerate(singles):
        assert_same(of(observations, k), single.reset(seed=k)[0])
    ends = np.zeros(num_envs, int)
    while ends.min() < 2:
        masks, actions = vector.action_masks(), some_actions(vector, rng)
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        assert not truncations.any()
        assert bool(infos) == terminations.any()
        for k, single in enumerate(singles):
            np.testing.assert_array_equal(masks[k], single.action_masks())  # type: ignore[attr-defined]
            observation, reward, terminated, _, info = single.step(actions[k])
            assert (rewards[k], terminations[k]) == (reward, terminated)
            if terminated:
                ends[k] += 1
                assert_same(infos["final_obs"][k], observation)
                assert infos["final_info"]["episode_metrics"][k] == info["episode_metrics"]
                observation, _ = single.reset()
            assert_same(of(observations, k), observation)


@every_kind
def test_made_by_gymnasium(kind: str) -> None:
    """`make_vec` gives the native form, with observations in its space."""
    make, arguments = KINDS[kind]
    env = gym.make_vec(env_id(kind), num_envs=2, **arguments)
    assert isinstance(env.unwrapped, make)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.metadata["autoreset_mode"] == gym.vector.AutoresetMode.SAME_STEP


@every_kind
@pytest.mark.parametrize("copy", [True, False])
def test_copies_unless_told_otherwise(kind: str, copy: bool) -> None:
    """With copy=False the arrays are reused; by default they are the caller's."""
    make, arguments = KINDS[kind]
    env = make(2, copy=copy, **arguments)
    arrays = list(first.values()) if isinstance(first := env.reset(seed=0)[0], dict) else [first]
    kept = [array.copy() for array in arrays]
    env.step(some_actions(env, np.random.default_rng(0)))
    unchanged = [np.array_equal(array, before) for array, before in zip(arrays, kept, strict=True)]
    assert all(unchanged) == copy


@pytest.mark.parametrize("kind", ["Routing-flat", "TwoLevel-flat"])
def test_flat_observations_hold_the_parts_in_order(kind: str) -> None:
    """The order that the environments document, tables row by row, in the bounds of the parts."""
    order = ("level", "replica", "request", "replicas", "setting", "engine", "requests")
    make, arguments = KINDS[kind]
    flat, parts = make(3, **arguments), make(3, **arguments | {"flat": False})
    rng = np.random.default_rng(0)
    rows, tables = flat.reset(seed=0)[0], parts.reset(seed=0)[0]
    for _ in range(60):
        assert flat.observation_space.contains(rows)
        shown = [tables[key].reshape(3, -1) for key in order if key in tables]
        np.testing.assert_array_equal(rows, np.concatenate(shown, axis=1).astype(np.float32))
        actions = some_actions(parts, rng)
        rows, tables = flat.step(actions)[0], parts.step(actions)[0]
    assert rows.any()
    spaces = parts.single_observation_space
    bounds = [spaces[key].low.ravel() for key in order[2:] if key in spaces.spaces]
    low = flat.single_observation_space.low
    np.testing.assert_array_equal(low[len(low) - sum(map(len, bounds)) :], np.concatenate(bounds))


@pytest.mark.parametrize(
    ("kind", "illegal"), [("Routing", 9), ("Batching", 9), ("TwoLevel", -1), ("DynamicBatching", 9)]
)
def test_an_illegal_action_names_the_environment_and_changes_nothing(kind: str, illegal: int) -> None:
    make, arguments = KINDS[kind]
    env, twin = (make(3, **arguments) for _ in range(2))
    for each in (env, twin):
        each.reset(seed=0)
    with pytest.raises(ValueError, match=f"action {illegal} in environment 2, decision 0"):
        env.step(np.array([0, 0, illegal]))
    for one, other in zip(env.step(np.zeros(3, int)), twin.step(np.zeros(3, int)), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("kind", ["Batching", "TwoLevel", "DynamicBatching"])
def test_an_action_for_each_environment_is_wanted(kind: str) -> None:
    make, arguments = KINDS[kind]
    env = make(3, **arguments)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions have shape \(2,\), must be \(3,\)"):
        env.step(np.zeros(2, int))
