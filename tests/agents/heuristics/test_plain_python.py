"""Every router decides compiled as in plain Python, over rows drawn at random."""

from typing import Any

import numpy as np
import pytest

from servegym.agents.heuristics import ROUTERS, make_router
from servegym.envs.sim.llm.router import random_state
from servegym.envs.sim.llm.view import AVAILABLE, PREFIX, PROMPT_TOKENS, SESSION
from tests.agents.heuristics.rows import REPLICA_COLUMN, request_of, rows_of

ROLES = ("prefill", "prefill", "mixed", "decode", "decode")
PARAMETERS: dict[str, dict[str, Any]] = {
    "session_affinity": {"sessions": 4},
    "splitwise": {"roles": ROLES, "prompt_queue_limit": 20},
    "distserve": {"roles": ROLES},
}
"""Where the defaults leave a part of the rule out."""

LIMITS = {
    "running": 4,
    "waiting": 4,
    "queued_prefill_tokens": 50,
    "outstanding_tokens": 90,
    "decode_context_tokens": 60,
    "kv_used_blocks": 101,
    "predicted_remaining_tokens": 30,
    "kv_released_per_iteration": 3,
    "iteration_left_s": 2,
}
"""Of the integers drawn: small ones, so that there are ties."""


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Five replicas and a request."""
    drawn = {name: list(rng.integers(0, limit, 5)) for name, limit in LIMITS.items()}
    rows = rows_of(5, **drawn, speed=list(rng.choice([1.0, 0.5], 5)))
    rows[:, AVAILABLE] = rng.integers(0, 2, 5)
    request = request_of(predicted_output_tokens=rng.integers(0, 30), priority=rng.integers(0, 2))
    request[PROMPT_TOKENS] = rng.integers(33, 80)
    request[SESSION], request[PREFIX] = rng.integers(0, 8), rng.integers(-1, 4)
    rows[:, REPLICA_COLUMN["prefix_hit_tokens"]] = rng.integers(0, 3, 5) * 16
    return rows, request


@pytest.mark.compiled
@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.filterwarnings("ignore:overflow encountered")  # as `next_uniform` means it, compiled or not
def test_decisions_are_equal(name: str) -> None:
    """With what each remembers, through 300 decisions; only available replicas, -1 where there are none."""
    router = make_router(name, **PARAMETERS.get(name, {}))
    plain = getattr(router.choose, "py_func", None)
    assert plain is not None
    memories = [router.new_memory(5) for _ in range(2)]
    states = [random_state(np.random.SeedSequence(3)) for _ in range(2)]
    rng = np.random.default_rng(7)
    chosen = set()
    for _ in range(300):
        rows, request = draw(rng)
        ours, theirs = (
            choose(rows, request, router.parameters, memory, state)
            for choose, memory, state in zip((router.choose, plain), memories, states, strict=True)
        )
        assert ours == theirs
        np.testing.assert_array_equal(*memories)
        assert rows[ours, AVAILABLE] == 1 if ours >= 0 else not rows[:, AVAILABLE].any()
        chosen.add(ours)
    assert chosen == {-1, 0, 1, 2, 3, 4}
