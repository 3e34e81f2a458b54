"""The configurations of the algorithms: what stands below `agent` in a training run."""

import math
from dataclasses import dataclass

from servegym.agents.learners.families import family_of
from servegym.agents.networks.build import NETWORKS
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
    learning_rate: float = 1e-3  # of Adam, at the start
    final_learning_rate: float = 0.0  # reached linearly at the last step
    n_steps: int = 128  # decisions per environment between updates
    batch_size: int = 2048  # decisions per minibatch; divides n_steps times the number of environments
    n_epochs: int = 4  # passes over the decisions of an update
    gamma: float = 0.9  # discount per decision; a choice is felt for about as long as a prefill queue lasts
    gae_lambda: float = 0.95  # generalised advantage estimation
    clip_range: float = 0.2  # how far the ratio of probabilities may move in one update
    ent_coef: float = 0.001  # weight of the entropy bonus
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # gradients are scaled down to this norm

    def __post_init__(self) -> None:
        _require(self.algorithm == "ppo", "algorithm", self.algorithm, "ppo with these keys")
        _require(self.network in NETWORKS, "network", self.network, f"one of {', '.join(NETWORKS)}")
        for key in ("hidden", "layers", "n_steps", "batch_size", "n_epochs"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        _require(self.imitate_steps >= 0, "imitate_steps", self.imitate_steps, "at least 0")
        if self.imitate_steps > 0:
            teacher = family_of(self.network).teacher
            _require(teacher is not None, "imitate_steps", self.imitate_steps, "0: nothing to imitate here")
        for key in ("learning_rate", "clip_range", "max_grad_norm"):
            _require(0 < getattr(self, key) < math.inf, key, getattr(self, key), "above 0 and finite")
        for key in ("final_learning_rate", "ent_coef", "vf_coef"):
            _require(0 <= getattr(self, key) < math.inf, key, getattr(self, key), "at least 0 and finite")
        for key in ("gamma", "gae_lambda"):
            _require(0 < getattr(self, key) <= 1, key, getattr(self, key), "above 0 and at most 1")


def _require(holds: bool, key: str, value: object, allowed: str) -> None:
    if not holds:
        raise InputError(f"agent.{key} = {value!r}: must be {allowed}")
