"""Symphony's rule as a policy over the observations of `servegym/DeferredBatching-v0`."""

import numpy as np

from servegym.envs.deferred_batching.observation import (
    HAS_WEIGHTS,
    IDLE,
    IDLE_S,
    MAY_WAIT,
    UNTIL_FRONT_S,
    Observation,
)


class Frontrun:
    """Sends the candidate once a batch larger by one would be late, to the GPU that has been idle longest.

    Without delays, and where all models fit into every GPU, that is Symphony (Chen et al., arXiv 2308.07470;
    agents/batch_schedulers/symphony.py) to the bit. GPUs with the weights of the model go first.
    """

    name = "frontrun"

    def reset(self, num_episodes: int, seed: int) -> None:
        """Has nothing to forget."""

    def act(self, observation: Observation) -> np.ndarray:
        """int64 (K,): 0 to wait, or 1 + the GPU."""
        candidate, gpus = observation["candidate"], observation["gpus"]
        idle, has_weights = gpus[..., IDLE] > 0, gpus[..., HAS_WEIGHTS] > 0
        preferred = idle & (has_weights | ~(idle & has_weights).any(axis=-1, keepdims=True))
        gpu = np.where(preferred, gpus[..., IDLE_S], -1.0).argmax(axis=-1)
        sends = (candidate[:, UNTIL_FRONT_S] <= 0) | (candidate[:, MAY_WAIT] == 0)
        return np.where(sends, 1 + gpu, 0)
