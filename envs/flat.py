"""Observations as one flat array: the numbers of all parts, in order, each row by row, in float32."""

from typing import Any

import gymnasium as gym
import numpy as np


def flat_space(space: gym.Space[Any], order: tuple[str, ...]) -> gym.spaces.Box:
    """The space of the flat form of a Dict of Boxes and Discretes, whose parts come in this order."""
    assert isinstance(space, gym.spaces.Dict)
    least, most = [], []
    for key in order:
        part = space[key]
        if isinstance(part, gym.spaces.Discrete):
            least.append(np.zeros(1))
            most.append(np.full(1, part.n - 1.0))
        else:
            assert isinstance(part, gym.spaces.Box)
            least.append(part.low.ravel())
            most.append(part.high.ravel())
    low, high = (np.concatenate(bounds).astype(np.float32) for bounds in (least, most))
    return gym.spaces.Box(low, high, dtype=np.float32)


def flatten(
    observation: dict[str, np.ndarray], index: int | slice, out: np.ndarray | None = None
) -> np.ndarray:
    """float32 (F,), or (n, F) for a slice: of arrays with a leading axis K what stands at `index`.

    Written into `out`, if there is one, else new.
    """
    rows = [value.reshape(len(value), -1)[index] for value in observation.values()]
    if out is not None:
        return np.concatenate(rows, axis=-1, out=out)
    return np.concatenate(rows, axis=-1, dtype=np.float32)
