"""`servegym bench training`: decisions a second that PPO learns from, and where the time goes."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from servegym.agents.learners.config import PPOConfig
from servegym.agents.learners.ppo import build_ppo
from servegym.agents.learners.process import set_up_learning
from servegym.agents.learners.vec_env import SB3VecEnv
from servegym.costmodels.progress import tracked
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import Scenario

PYTHON_ENVIRONMENTS = 8

DECISIONS, MINIBATCHES = 8192, 4
"""Of an update and of a pass over it, as in the presets, however many environments there are."""

PARTS = ("environment", "inference", "optimisation")
"""Where time is taken: simulating and observing, the policy's forward passes while it acts, its updates."""


class Watched:
    """A learner whose time is taken apart, in seconds of processor time."""

    def __init__(self, model: OnPolicyAlgorithm, environment: Any) -> None:
        self.model = model
        self.seconds: dict[str, float] = defaultdict(float)
        policy: Any = model.policy
        self._watch("environment", environment, "step")
        self._watch("inference", policy, "forward")
        if hasattr(policy, "network"):
            self._watch("inference", policy.network, "prepare")
        self._watch("optimisation", model, "train")
        model.learn(1)  # a first update, which also compiles

    def learn(self, updates: int) -> dict[str, float]:
        """Seconds by PARTS, and `total`, of so many updates of all their decisions."""
        self.seconds.clear()
        decisions = updates * self.model.n_steps * self.model.n_envs
        started_s = time.process_time()
        self.model.learn(decisions, reset_num_timesteps=False)
        return {**self.seconds, "total": time.process_time() - started_s}

    def _watch(self, part: str, owner: Any, name: str) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            started_s = time.process_time()
            answer = call(*args, **kwargs)
            self.seconds[part] += time.process_time() - started_s
            return answer

        setattr(owner, name, watched)


class DoNothing(gym.vector.VectorEnv[Any, Any, Any]):
    """Shows what another environment shows after a reset, for ever, and pays nothing."""

    def __init__(self, env: RoutingVectorEnv) -> None:
        self.num_envs = env.num_envs
        self.single_observation_space = env.single_observation_space
        self.single_action_space = env.single_action_space
        self._shown, _ = env.reset(seed=0)
        self._nothing, self._never = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        """What is always shown."""
        return self._shown, {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Nothing."""
        return self._shown, self._nothing, self._never, self._never, {}


def measure_training(scenario: Scenario, num_envs: int, updates: int, passes: int) -> list[dict[str, Any]]:
    """Of each learner `name`, `num_envs`, `decisions_per_s` of processor time, shares of PARTS and `rest`.

    Our PPO with each router network, at its defaults, and for comparison Stable-Baselines3's own on an
    environment that does nothing (what no environment could make faster) and on Python environments one by
    one, with a network of the same width. Passes alternate, so a busy machine slows all; medians count.
    """
    set_up_learning()
    watched = {
        "servegym, mlp": _ours("mlp", scenario, num_envs),
        "servegym, gnn": _ours("gnn", scenario, num_envs),
        "Stable-Baselines3, environment that does nothing": _do_nothing(scenario, num_envs),
        "Stable-Baselines3, Python environments": _python(scenario),
    }
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in watched}
    for _ in tracked(range(passes), "Learning", "passes"):
        for name, learner in watched.items():
            taken[name].append(learner.learn(updates))
    return [_summary(name, watched[name].model, updates, runs) for name, runs in taken.items()]


def _summary(
    name: str, model: OnPolicyAlgorithm, updates: int, runs: list[dict[str, float]]
) -> dict[str, Any]:
    total_s = statistics.median(run["total"] for run in runs)
    shares = {part: statistics.median(run[part] / run["total"] for run in runs) for part in PARTS}
    return {
        "name": name,
        "num_envs": model.n_envs,
        "decisions_per_s": updates * model.n_steps * model.n_envs / total_s,
        **shares,
        "rest": 1 - sum(shares.values()),
    }


def _ours(network: str, scenario: Scenario, num_envs: int) -> Watched:
    env = RoutingVectorEnv(num_envs, scenario)
    config = PPOConfig(network=network, **_sizes(num_envs))
    return Watched(build_ppo(config, SB3VecEnv(env), seed=0), env)


def _do_nothing(scenario: Scenario, num_envs: int) -> Watched:
    env = DoNothing(RoutingVectorEnv(num_envs, scenario))
    vec_env = SB3VecEnv(env)  # type: ignore[arg-type]  # as far as it is used
    return Watched(_sb3(vec_env), env)


def _python(scenario: Scenario) -> Watched:
    def make() -> gym.Env[Any, Any]:
        return gym.make("servegym.envs:servegym/Routing-v0", scenario=scenario)

    vec_env = DummyVecEnv([make] * PYTHON_ENVIRONMENTS)
    return Watched(_sb3(vec_env), vec_env)


def _sizes(num_envs: int) -> dict[str, Any]:
    n_steps = MINIBATCHES * -(-DECISIONS // (MINIBATCHES * num_envs))
    return {"n_steps": n_steps, "batch_size": n_steps * num_envs // MINIBATCHES}


def _sb3(vec_env: Any) -> PPO:
    """As the library comes, with the sizes of our PPO."""
    ours = PPOConfig()
    assert isinstance(vec_env.observation_space, spaces.Dict)
    return PPO(
        "MultiInputPolicy",
        vec_env,
        **_sizes(vec_env.num_envs),
        n_epochs=ours.n_epochs,
        policy_kwargs={"net_arch": [ours.hidden] * ours.layers},
        seed=0,
        device="cpu",
    )
