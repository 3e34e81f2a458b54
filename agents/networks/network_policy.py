"""A router network as a `Policy`: always the replica with the highest score."""

import numpy as np
import torch

from servegym.agents.networks.router_network import RouterNetwork


class NetworkPolicy:
    """Acts for K episodes at once with one batched evaluation of `network`; `name` is for tables."""

    def __init__(self, network: RouterNetwork, name: str = "network") -> None:
        self.network = network.eval()
        self.name = name

    def reset(self, num_episodes: int, seed: int) -> None:
        """Nothing to do: the network has no memory and draws nothing."""

    def act(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """`request` (K, 4) and `replicas` (K, R, 13) to replicas chosen, int64 (K,)."""
        request = torch.as_tensor(observation["request"], dtype=torch.float32)
        replicas = torch.as_tensor(observation["replicas"], dtype=torch.float32)
        with torch.no_grad():
            logits, _ = self.network(request, replicas)
        return np.asarray(logits.argmax(dim=1).numpy())
