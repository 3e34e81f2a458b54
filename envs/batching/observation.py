"""What a scheduling agent observes while a decision is due.

Raw units, columns in envs/sim/llm/decision_view.py; the true output length is not in it.

    engine    float32 (ENGINE_FEATURES,)        the replica: running, waiting, ..., KV blocks, budget left
    requests  float32 (NUM_ROWS, ROW_FEATURES)  rows 0 to 31: who waits, in the order of the queue; of more
                                                than 32 the first 16, then the shortest of the others
                                                (docs/simulator.md, "Scheduler: agent"); rows 32 to 63: who
                                                runs, last admitted first; rows without a request are 0

Flat, this is one Box: `engine`, then `requests` row by row, which is also what Gymnasium's
`FlattenObservation` makes of it.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from servegym.envs.sim.llm.decision_view import ENGINE_FEATURES, ROW_FEATURES
from servegym.envs.sim.llm.decisions import NUM_ROWS

Observation = dict[str, np.ndarray]

FLAT_FEATURES = ENGINE_FEATURES + NUM_ROWS * ROW_FEATURES


def observation_space(flat: bool) -> gym.Space[Any]:
    """The space of one replica's observation."""
    if flat:
        return gym.spaces.Box(-np.inf, np.inf, (FLAT_FEATURES,), np.float32)
    return gym.spaces.Dict(
        {
            "engine": gym.spaces.Box(0.0, np.inf, (ENGINE_FEATURES,), np.float32),
            "requests": gym.spaces.Box(-np.inf, np.inf, (NUM_ROWS, ROW_FEATURES), np.float32),
        }
    )


def observation_of(rows: np.ndarray, flat: bool) -> Any:
    """The observation in float32 (..., FLAT_FEATURES), as views of it."""
    if flat:
        return rows
    requests = rows[..., ENGINE_FEATURES:]
    return {
        "engine": rows[..., :ENGINE_FEATURES],
        "requests": requests.reshape(*rows.shape[:-1], NUM_ROWS, ROW_FEATURES),
    }
