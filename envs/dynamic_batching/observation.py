"""What an agent that batches observes: one row of numbers, in raw units, all of which a real server knows.

queue       requests that wait
oldest_s    seconds that the oldest of them has waited (0: nobody waits)
gap_s       seconds since the last arrival
draining    1 once no request will come any more, else 0
"""

import gymnasium as gym
import numpy as np

QUEUE, OLDEST_S, GAP_S, DRAINING = range(4)
FEATURES = 4


def observation_space() -> gym.spaces.Box:
    """The space of one episode's observation, float32 (FEATURES,)."""
    return gym.spaces.Box(0.0, np.array([np.inf, np.inf, np.inf, 1.0], np.float32), dtype=np.float32)
