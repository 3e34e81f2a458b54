"""The algorithms by name: how each is configured, built and loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.learners.config import (
    CounterfactualConfig,
    DiscreteSACConfig,
    DoubleDQNConfig,
    ImproperConfig,
    PPOConfig,
)
from servegym.agents.learners.counterfactual import Counterfactual, build_counterfactual
from servegym.agents.learners.discrete_sac import DiscreteSAC, build_discrete_sac
from servegym.agents.learners.double_dqn import DoubleDQN, build_double_dqn
from servegym.agents.learners.improper import build_improper
from servegym.agents.learners.ppo import build_ppo, ppo_for
from servegym.agents.learners.rollouts import FastA2C


@dataclass(frozen=True)
class Algorithm:
    """What learns, as far as whoever trains has to know it."""

    config: type
    """What it is built from."""
    build: Callable[[Any, VecEnv, int, Path | None], BaseAlgorithm]
    """A fresh one from its configuration, environments, a seed and a folder for TensorBoard; InputError where
    they do not fit each other."""
    model: Callable[[Any], type[BaseAlgorithm]]
    """From its configuration the class that its checkpoints are of."""


ALGORITHMS = {
    "ppo": Algorithm(PPOConfig, build_ppo, lambda config: ppo_for(config.network)),
    "discrete_sac": Algorithm(DiscreteSACConfig, build_discrete_sac, lambda config: DiscreteSAC),
    "counterfactual": Algorithm(CounterfactualConfig, build_counterfactual, lambda config: Counterfactual),
    "double_dqn": Algorithm(DoubleDQNConfig, build_double_dqn, lambda config: DoubleDQN),
    "improper": Algorithm(ImproperConfig, build_improper, lambda config: FastA2C),
}
"""By the value of `agent.algorithm`."""


def algorithm_of(config: Any) -> Algorithm:
    """The algorithm that a configuration is of."""
    return ALGORITHMS[config.algorithm]
