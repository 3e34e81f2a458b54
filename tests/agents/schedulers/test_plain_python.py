"""Every ranking gives the same keys compiled as in plain Python, over rows drawn at random."""

import numpy as np
import pytest

from servegym.agents.schedulers import SCHEDULERS, make_scheduler
from servegym.envs.sim.llm.ranking import (
    LAST_ITERATION_S,
    MEMORY,
    NOW_S,
    PLACE,
    REQUEST_COLUMNS,
    SERVED,
)
from tests.agents.schedulers.rows import replica_of

PARAMETERS: dict[str, dict[str, object]] = {
    "ssjf": {"guard": True, "max_wait_s": 2.0},
    "learning_to_rank": {"starvation_iterations": 3, "quantum_iterations": 2},
    "vtc": {"num_tenants": 4},
}
"""Where the defaults leave a part of the rule out."""


@pytest.mark.compiled
@pytest.mark.parametrize("name", SCHEDULERS)
def test_keys_and_memories_are_equal(name: str) -> None:
    """Twenty requests followed through 100 iterations, in which all that changes is drawn."""
    scheduler = make_scheduler(name, **PARAMETERS.get(name, {}))
    plain = getattr(scheduler.rank, "py_func", None)
    assert plain is not None
    rng = np.random.default_rng(5)
    rows = rng.integers(1, 40, (20, REQUEST_COLUMNS)).astype(np.float64)
    rows[:, MEMORY:] = 0
    ours, theirs = rows.copy(), rows.copy()
    memories = [np.zeros(scheduler.memory_size) for _ in range(2)]
    for iteration in range(100):
        replica = replica_of(now_s=40 + 0.1 * iteration, last_iteration_s=0.1)
        assert replica[NOW_S] > 0 and replica[LAST_ITERATION_S] > 0
        place, served = rng.integers(0, 4, 20), rng.integers(0, 2, 20)
        keys = np.zeros((2, 20))
        for rank, shown, memory, given in zip(
            (scheduler.rank, plain), (ours, theirs), memories, keys, strict=True
        ):
            shown[:, PLACE], shown[:, SERVED] = place, served
            rank(shown, replica, scheduler.parameters, memory, given)
        np.testing.assert_array_equal(*keys)
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(*memories)
