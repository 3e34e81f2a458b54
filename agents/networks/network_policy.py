"""A network as a `Policy`: always the action with the highest score."""

from typing import Any

import numpy as np
import torch

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork, as_tensors


class NetworkPolicy:
    """Acts for K episodes at once with one batched evaluation of `network`; `name` is for tables."""

    def __init__(self, network: ActionNetwork, name: str = "network") -> None:
        self.network = network.eval()
        self.name = name

    def reset(self, num_episodes: int, seed: int) -> None:
        """Nothing to do: the network has no memory and draws nothing."""

    def act(self, observation: Any, masks: np.ndarray | None = None) -> np.ndarray:
        """Actions chosen, int64 (K,), from raw arrays with a leading axis K.

        masks: bool (K, actions), what is legal; None where the network sees that itself.
        """
        with torch.no_grad():
            logits, _ = self.network.scores(as_tensors(observation))
        if masks is not None:
            logits = logits.masked_fill(~torch.from_numpy(masks), ILLEGAL_LOGIT)
        return np.asarray(self.network.best(logits).numpy())
