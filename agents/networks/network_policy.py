"""A network as a `Policy`: always the action with the highest score."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork, as_tensors


class NetworkPolicy:
    """Acts for K episodes at once with one batched evaluation of `network`; `name` is for tables."""

    def __init__(self, network: ActionNetwork, name: str = "network") -> None:
        self.network = network.eval()
        self.name = name

    def reset(self, num_episodes: int, seed: int) -> None:
        """Nothing to do: the network has no memory and draws nothing."""

    def scores(self, observation: Any, masks: np.ndarray | None = None) -> np.ndarray:
        """float32 (K, actions) from raw arrays with a leading axis K, far below all others where illegal.

        masks: bool (K, actions), what is legal; None where the network sees that itself.
        """
        return np.asarray(self._logits(observation, masks).numpy())

    def act(self, observation: Any, masks: np.ndarray | None = None) -> np.ndarray:
        """The best actions, int64 (K,); arguments as for `scores`."""
        return np.asarray(self.network.best(self._logits(observation, masks)).numpy())

    def _logits(self, observation: Any, masks: np.ndarray | None) -> Tensor:
        with torch.no_grad():
            logits, _ = self.network.scores(as_tensors(observation))
        if masks is not None:
            logits = logits.masked_fill(~torch.from_numpy(masks), ILLEGAL_LOGIT)
        return logits
