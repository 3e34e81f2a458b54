"""Whether the actions of many episodes are legal, in compiled code; all native environments ask it first."""

import numpy as np

from servegym.costmodels.native.jit import kernel

ALL_LEGAL = -1
"""Instead of the number of an episode."""


@kernel
def first_illegal(masks: np.ndarray, finished: np.ndarray, actions: np.ndarray) -> int:
    """The first episode, of those not finished, whose action its mask does not allow; ALL_LEGAL if none.

    masks: bool (K, num_actions). finished: bool (K,). actions: int64 (K,).
    """
    for episode_id in range(actions.shape[0]):
        action = actions[episode_id]
        if finished[episode_id] or (0 <= action < masks.shape[1] and masks[episode_id, action]):
            continue
        return episode_id
    return ALL_LEGAL


def refusal(episode_id: int, num_decisions: int, action: int, mask: np.ndarray) -> ValueError:
    """What to raise for an action that is not legal. mask: bool (num_actions,) of that episode."""
    return ValueError(
        f"action {action} in environment {episode_id}, decision {num_decisions}: must be one that "
        f"action_masks() allows: {np.flatnonzero(mask).tolist()}"
    )
