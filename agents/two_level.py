"""A rule for both levels of `servegym/TwoLevel-v0`."""

import numpy as np
import torch

from servegym.agents.batching import BoundedShortestFirst
from servegym.agents.networks.forecasts import FORECASTS, forecasts
from servegym.agents.networks.seats import seat_waits_s
from servegym.envs.two_level.observation import ROUTING, Observation


class LeastMarginalLatency:
    """Routes where a request adds least to everyone's latency; on a replica the shortest job first (ours).

    To what the router `marginal_latency` adds up come waits for places (seats.py). Each replica's scheduler
    is `BoundedShortestFirst`, with more patience than where an engine is alone and no hurry: here mean
    latency counts.
    """

    name = "least_marginal_latency"

    def __init__(self) -> None:
        self.scheduler = BoundedShortestFirst(largest_job=1500.0, patience=4.0, hurry_s=np.inf)

    def reset(self, num_episodes: int, seed: int) -> None:
        """Has nothing to forget."""

    def act(self, observation: Observation) -> np.ndarray:
        """int64 (K,)."""
        seen = [torch.from_numpy(observation[name]) for name in ("request", "replicas", "setting")]
        added_s = forecasts(*seen)[..., FORECASTS.index("marginal_latency_s")] + seat_waits_s(*seen)
        routes = added_s.argmin(dim=1).numpy()
        choices = observation["replicas"].shape[1] + self.scheduler.act(observation)
        return np.where(observation["level"] == ROUTING, routes, choices)
