"""What every network here is: raw observations in, one score per action and a value out."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ILLEGAL_LOGIT = -1e9
"""Score of an action that may not be chosen: finite, and its probability is exactly 0 in float32."""


class Inputs(tuple[Tensor, ...]):
    """What a network computes from observations without weights: the same for a decision in every update.

    Each with a leading axis B.
    """


class ActionNetwork(nn.Module):
    """Scores the actions of B episodes at once. Subclasses write `forward`.

    It takes the arrays of an observation by name, or the one array that an observation is, each with a
    leading axis B and in raw units, and returns logits (B, A) and values (B,). `num_replicas` is the only
    size of a fleet that it takes, None where it takes any.
    """

    num_replicas: int | None = None

    def prepare(self, observation: Any) -> Any:
        """The `Inputs` of an observation, of a network that has a `decide` for them; else the observation."""
        return observation

    def decide(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, A) and values (B,) of what `prepare` gave."""
        raise NotImplementedError

    def scores(self, observation: Any) -> tuple[Tensor, Tensor]:
        """Logits (B, A) and values (B,) of an observation, a tensor or a dict of them, or of its Inputs."""
        if isinstance(observation, Inputs):
            return self.decide(*observation)
        logits, value = self(**observation) if isinstance(observation, dict) else self(observation)
        return logits, value

    def best(self, logits: Tensor) -> Tensor:
        """int64 (B,): the actions to take, from logits in which illegal ones are far below all others."""
        return logits.argmax(dim=1)


def as_tensors(observation: Any) -> Any:
    """An observation of NumPy arrays as float32 tensors."""
    if isinstance(observation, dict):
        return {key: torch.as_tensor(array, dtype=torch.float32) for key, array in observation.items()}
    return torch.as_tensor(np.asarray(observation), dtype=torch.float32)


def linear(num_inputs: int, num_outputs: int, gain: float = 2.0**0.5, bias: bool = True) -> nn.Linear:
    """A linear layer with orthogonal weights and zero bias, the usual start for PPO.

    The default gain keeps the variance through a ReLU; a small one makes the first policy near uniform.
    """
    layer = nn.Linear(num_inputs, num_outputs, bias=bias)
    nn.init.orthogonal_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
