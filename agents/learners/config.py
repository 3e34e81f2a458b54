"""The configurations of the algorithms: what stands below `agent` in a training run."""

import math
from dataclasses import dataclass

from omegaconf import MISSING

from servegym.agents.learners.families import FAMILIES, family_of
from servegym.agents.networks.build import MIXTURES, NETWORKS
from servegym.costmodels.errors import InputError


@dataclass
class PPOConfig:
    """What PPO (Schulman et al. 2017) and its network are built from; the keys below `agent`.

    The loop is set for speed on one core: many steps per update and large minibatches cost a tenth of
    Stable-Baselines3's defaults per step. Rewards are normalised, so no key depends on their unit.
    """

    algorithm: str = "ppo"  # a name of ALGORITHMS, this one
    network: str = "gnn"  # one of NETWORKS
    hidden: int = 64  # width of the network
    layers: int = 2  # rounds of message passing (gnn) or hidden layers (mlp)
    imitate_steps: int = 0  # decisions of the published rule of the family that are imitated before all else
    imitate_log: str | None = None  # instead of the rule's, those that `servegym decisions` has written here
    learning_rate: float = 1e-3  # of Adam, at the start
    final_learning_rate: float = 0.0  # reached linearly at the last step
    n_steps: int = 128  # decisions per environment between updates
    batch_size: int = 2048  # decisions per minibatch; divides n_steps times the number of environments
    n_epochs: int = 4  # passes over the decisions of an update
    gamma: float = 0.9  # discount per decision; a choice is felt for about as long as a prefill queue lasts
    differential: bool = False  # the average-reward form: no discount, rewards against their average
    gae_lambda: float = 0.95  # generalised advantage estimation
    clip_range: float = 0.2  # how far the ratio of probabilities may move in one update
    ent_coef: float = 0.001  # weight of the entropy bonus
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # gradients are scaled down to this norm
    start_rate: float = 1.0  # of the scenario's, the rate of the first episodes; see LoadCurriculum

    def __post_init__(self) -> None:
        _require(self.algorithm == "ppo", "algorithm", self.algorithm, "ppo with these keys")
        _require(self.network in NETWORKS, "network", self.network, f"one of {', '.join(NETWORKS)}")
        for key in ("hidden", "layers", "n_steps", "batch_size", "n_epochs"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        _require(self.imitate_steps >= 0, "imitate_steps", self.imitate_steps, "at least 0")
        family = family_of(self.network)
        if self.imitate_log is not None:
            routes = family.environment == "servegym/Routing-v0"
            _require(routes, "imitate_log", self.imitate_log, "null for a network that routes nothing")
            _require(self.imitate_steps > 0, "imitate_steps", self.imitate_steps, "above 0 with imitate_log")
        elif self.imitate_steps > 0:
            known = family.teacher is not None
            _require(known, "imitate_steps", self.imitate_steps, "0: nothing to imitate here")
        for key in ("learning_rate", "clip_range", "max_grad_norm"):
            _require(0 < getattr(self, key) < math.inf, key, getattr(self, key), "above 0 and finite")
        for key in ("final_learning_rate", "ent_coef", "vf_coef"):
            _require(0 <= getattr(self, key) < math.inf, key, getattr(self, key), "at least 0 and finite")
        for key in ("gamma", "gae_lambda", "start_rate"):
            _require(0 < getattr(self, key) <= 1, key, getattr(self, key), "above 0 and at most 1")


@dataclass
class ReplayConfig:
    """What all that learn from a replay buffer are built from, beside their own keys."""

    algorithm: str = MISSING  # a name of ALGORITHMS
    network: str = "gnn"  # one of NETWORKS whose family masks illegal actions by itself
    hidden: int = 64  # width of the networks
    layers: int = 2  # rounds of message passing (gnn) or hidden layers (mlp)
    learning_rate: float = 1e-3  # of Adam, at the start
    final_learning_rate: float = 0.0  # reached linearly at the last step
    buffer_size: int = 100_000  # decisions remembered, in all environments together
    warm_up: int = 10_000  # decisions before the first update
    batch_size: int = 512  # decisions an update learns from
    gradient_steps: int = 1  # updates after one decision in every environment
    tau: float = 0.02  # part of the way that slow copies go in an update
    gamma: float = 0.9  # discount per decision
    max_grad_norm: float = 0.5  # gradients are scaled down to this norm
    start_rate: float = 1.0  # of the scenario's, the rate of the first episodes; see LoadCurriculum

    def __post_init__(self) -> None:
        unmasked = [name for family in FAMILIES if not family.masked for name in family.networks]
        networks = [name for name in unmasked if name not in MIXTURES]  # whose scores are no values
        _require(self.network in networks, "network", self.network, f"one of {', '.join(networks)}")
        for key in ("hidden", "layers", "buffer_size", "warm_up", "batch_size", "gradient_steps"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("learning_rate", "max_grad_norm"):
            _require(0 < getattr(self, key) < math.inf, key, getattr(self, key), "above 0 and finite")
        _require(
            0 <= self.final_learning_rate < math.inf,
            "final_learning_rate",
            self.final_learning_rate,
            "at least 0 and finite",
        )
        for key in ("tau", "gamma", "start_rate"):
            _require(0 < getattr(self, key) <= 1, key, getattr(self, key), "above 0 and at most 1")


@dataclass
class DiscreteSACConfig(ReplayConfig):
    """What discrete soft actor-critic (Christodoulou 2019) is built from."""

    algorithm: str = "discrete_sac"
    entropy_share: float = 0.1  # of the uniform distribution's entropy, what the temperature aims at

    def __post_init__(self) -> None:
        _require(
            self.algorithm == "discrete_sac", "algorithm", self.algorithm, "discrete_sac with these keys"
        )
        super().__post_init__()
        _require(0 < self.entropy_share < 1, "entropy_share", self.entropy_share, "in (0, 1)")


@dataclass
class DoubleDQNConfig(ReplayConfig):
    """What double DQN (van Hasselt et al. 2015) is built from."""

    algorithm: str = "double_dqn"
    exploration_share: float = 0.2  # of the run, over which random choices become as rare as they get
    final_epsilon: float = 0.01  # of the choices, random ones from then on

    def __post_init__(self) -> None:
        _require(self.algorithm == "double_dqn", "algorithm", self.algorithm, "double_dqn with these keys")
        super().__post_init__()
        _require(0 < self.exploration_share <= 1, "exploration_share", self.exploration_share, "in (0, 1]")
        _require(0 <= self.final_epsilon <= 1, "final_epsilon", self.final_epsilon, "in [0, 1]")


@dataclass
class ImproperConfig:
    """What the improper policy gradient (Zaki et al. 2021) is built from."""

    algorithm: str = "improper"
    network: str = "mixture"  # one of MIXTURES
    hidden: int = 32  # width of the value, and of the gate
    layers: int = 1  # hidden layers of the value, and of the gate
    learning_rate: float = 0.03  # of Adam, at the start
    final_learning_rate: float = 0.0  # reached linearly at the last step
    n_steps: int = 32  # decisions per environment between steps of the gradient
    gamma: float = 0.9  # discount per decision
    gae_lambda: float = 0.95  # generalised advantage estimation
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # gradients are scaled down to this norm
    start_rate: float = 1.0  # of the scenario's, the rate of the first episodes; see LoadCurriculum

    def __post_init__(self) -> None:
        _require(self.algorithm == "improper", "algorithm", self.algorithm, "improper with these keys")
        _require(self.network in MIXTURES, "network", self.network, f"one of {', '.join(MIXTURES)}")
        for key in ("hidden", "layers", "n_steps"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("learning_rate", "max_grad_norm"):
            _require(0 < getattr(self, key) < math.inf, key, getattr(self, key), "above 0 and finite")
        for key in ("final_learning_rate", "vf_coef"):
            _require(0 <= getattr(self, key) < math.inf, key, getattr(self, key), "at least 0 and finite")
        for key in ("gamma", "gae_lambda", "start_rate"):
            _require(0 < getattr(self, key) <= 1, key, getattr(self, key), "above 0 and at most 1")


@dataclass
class CounterfactualConfig:
    """What learning from counterfactual costs is built from."""

    algorithm: str = "counterfactual"
    network: str = "gnn"  # one of those that learn servegym/Routing-v0
    hidden: int = 64  # width of the network
    layers: int = 2  # rounds of message passing (gnn) or hidden layers (mlp)
    learning_rate: float = 1e-3  # of Adam, at the start
    final_learning_rate: float = 0.0  # reached linearly at the last step
    exploration: float = 0.05  # share of decisions that are drawn from the policy
    rounds: int = 160  # simulations that ask about an episode
    spacing_s: float = 10.0  # between two requests that one of them asks about
    memory_size: int = 200_000  # answers remembered, in equal parts of each scenario
    n_steps: int = 1024  # decisions per environment between updates
    gradient_steps: int = 100  # in an update
    batch_size: int = 2048  # answers in a step
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    start_rate: float = 0.6  # of the scenario's, the rate of the first episodes; see LoadCurriculum
    search_episodes: int = 1  # of each scenario, that the line search plays at the end; 0: there is none

    def __post_init__(self) -> None:
        _require(
            self.algorithm == "counterfactual", "algorithm", self.algorithm, "counterfactual with these keys"
        )
        family = next(each for each in FAMILIES if each.environment == "servegym/Routing-v0")
        networks = [name for name in family.networks if name not in MIXTURES]
        _require(self.network in networks, "network", self.network, f"one of {', '.join(networks)}")
        for key in ("hidden", "layers", "rounds", "memory_size", "n_steps", "gradient_steps", "batch_size"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("learning_rate", "spacing_s", "max_grad_norm"):
            _require(0 < getattr(self, key) < math.inf, key, getattr(self, key), "above 0 and finite")
        rate = self.final_learning_rate
        _require(0 <= rate < math.inf, "final_learning_rate", rate, "at least 0 and finite")
        _require(self.search_episodes >= 0, "search_episodes", self.search_episodes, "at least 0")
        _require(0 <= self.exploration <= 1, "exploration", self.exploration, "in [0, 1]")
        _require(0 < self.start_rate <= 1, "start_rate", self.start_rate, "above 0 and at most 1")


def _require(holds: bool, key: str, value: object, allowed: str) -> None:
    if not holds:
        raise InputError(f"agent.{key} = {value!r}: must be {allowed}")
