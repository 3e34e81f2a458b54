"""`Policy`: the one interface of heuristics, trained networks and exported artifacts."""

from typing import Protocol

import numpy as np

from servegym.envs.routing.observation import Observation


class Policy(Protocol):
    """Decides for K episodes at once."""

    name: str

    def reset(self, num_episodes: int, seed: int) -> None:
        """Forgets everything: K episodes are about to start. Episode k draws from stream `seed + k`."""

    def act(self, observation: Observation) -> np.ndarray:
        """int64 (K,): a legal replica per episode, from arrays with a leading axis K."""
