"""What a routing agent observes: the request to be routed and the replicas it may go to.

A graph in fixed-size arrays: one request node, one node per replica, an edge from the request to every
replica with `available` = 1. Raw units; networks normalise inside. Only what a real router can know:
the true output length is not in it.

    request   float32 (REQUEST_FEATURES,)          prompt_tokens, predicted_output_tokens (or 0), gap_s,
                                                   priority (may be negative)
    replicas  float32 (slots, REPLICA_FEATURES)    one row per replica slot, see docs/simulator.md;
                                                   rows of slots without a replica are 0
    setting   float32 (SETTING_FEATURES,)          what stays the same: the clock of a replica with SPEED 1,
                                                   limits of its engine, the mean output of training traffic,
                                                   the objective's weights

When an episode is over `request` is 0, and all replicas count as available.

Flat, this is one Box: `request`, then `replicas` row by row, then `setting`.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.flat import flat_space
from servegym.envs.sim.llm.view import PRIORITY, REPLICA_FEATURES, REQUEST_FEATURES, SETTING_FEATURES

PARTS = ("request", "replicas", "setting")

Observation = dict[str, np.ndarray]


def observation_space(slots: int, flat: bool = False) -> gym.Space[Any]:
    """The space of one episode's observation, for `slots` replica slots."""
    least = np.zeros(REQUEST_FEATURES, np.float32)
    least[PRIORITY] = -np.inf
    space = gym.spaces.Dict(
        {
            "request": gym.spaces.Box(least, np.inf, dtype=np.float32),
            "replicas": gym.spaces.Box(0.0, np.inf, (slots, REPLICA_FEATURES), np.float32),
            "setting": gym.spaces.Box(0.0, np.inf, (SETTING_FEATURES,), np.float32),
        }
    )
    return flat_space(space, PARTS) if flat else space


def empty_observations(
    num_episodes: int, num_replicas: int, slots: int | None, setting: np.ndarray
) -> Observation:
    """`request` (K, .) and `replicas` (K, slots, .) of zeros, and `setting` (K, .) as given.

    slots: None for as many as replicas. InputError where they are fewer.
    """
    slots = num_replicas if slots is None else slots
    if slots < num_replicas:
        raise InputError(f"slots = {slots}: must be at least the scenario's {num_replicas} replicas")
    return {
        "request": np.zeros((num_episodes, REQUEST_FEATURES), np.float32),
        "replicas": np.zeros((num_episodes, slots, REPLICA_FEATURES), np.float32),
        "setting": np.tile(setting, (num_episodes, 1)),
    }
