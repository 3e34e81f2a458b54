"""What the agent of two levels observes at a decision of either.

level     Discrete(2)                       0: a request is to be routed; 1: a replica is to be scheduled
replica   Discrete(R)                       the replica to be scheduled; 0 when routing
request   float32 (REQUEST_FEATURES,)       as in routing; 0 when scheduling
replicas  float32 (R, REPLICA_FEATURES)     as in routing, at the instant of the decision
setting   float32 (SETTING_FEATURES,)       as in routing
engine    float32 (ENGINE_FEATURES,)        as in batching, of the replica; 0 when routing
requests  float32 (NUM_ROWS, ROW_FEATURES)  likewise

Flat, this is one Box of all these in this order, tables row by row.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from servegym.envs.batching.observation import observation_space as batching_space
from servegym.envs.flat import flat_space
from servegym.envs.routing.observation import observation_space as routing_space

ROUTING, SCHEDULING = range(2)
"""The levels."""

PARTS = ("level", "replica", "request", "replicas", "setting", "engine", "requests")

Observation = dict[str, np.ndarray]


def observation_space(num_replicas: int, flat: bool = False) -> gym.Space[Any]:
    """The space of one episode's observation."""
    levels = {"level": gym.spaces.Discrete(2), "replica": gym.spaces.Discrete(num_replicas)}
    space = gym.spaces.Dict(
        {**levels, **_parts(routing_space(num_replicas)), **_parts(batching_space(flat=False))}
    )
    return flat_space(space, PARTS) if flat else space


def _parts(space: gym.Space[Any]) -> dict[str, gym.Space[Any]]:
    assert isinstance(space, gym.spaces.Dict)
    return dict(space.spaces)
