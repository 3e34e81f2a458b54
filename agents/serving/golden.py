"""Plausible observations, on which an exported policy is held to its scores."""

import numpy as np

from servegym.envs.sim.llm import view

NUM_GOLDEN = 128
"""Golden observations per fleet size."""

FLEET_SIZES = (1, 4, 8, 32)
"""Fleet sizes tried where the policy takes any."""

MEAN_REQUEST = {view.PROMPT_TOKENS: 1_000.0, view.PREDICTED_OUTPUT_TOKENS: 200.0, view.GAP_S: 0.2}
"""Typical values of a request in a conversation."""

LOADED_REPLICA = {
    view.RUNNING: 40.0,
    view.WAITING: 8.0,
    view.QUEUED_PREFILL_TOKENS: 4_000.0,
    view.OUTSTANDING_TOKENS: 50_000.0,
    view.DECODE_CONTEXT_TOKENS: 40_000.0,
    view.KV_USED_BLOCKS: 3_000.0,
    view.ITERATION_LEFT_S: 0.03,
    view.PREDICTED_REMAINING_TOKENS: 10_000.0,
    view.KV_RELEASED_PER_ITERATION: 200.0,
    view.PREFIX_HIT_TOKENS: 500.0,
}
"""Typical values of a loaded replica that serves conversations."""

KV_TOTAL_BLOCKS = 20_000.0

SPEEDS = (0.3, 1.0, 3.0)
"""Of replicas on GPUs of different generations."""

PRIORITIES = (-1.0, 0.0, 1.0)


def plausible_observation(
    rng: np.random.Generator, num_observations: int, num_replicas: int
) -> dict[str, np.ndarray]:
    """`request` (K, 4) and `replicas` (K, R, 13), float32: idle to overloaded, at least one of R legal."""
    request = np.zeros((num_observations, view.REQUEST_FEATURES), np.float32)
    for column, mean in MEAN_REQUEST.items():
        request[:, column] = rng.exponential(mean, size=num_observations)
    request[:, view.PRIORITY] = rng.choice(PRIORITIES, size=num_observations)
    shape = (num_observations, num_replicas)
    load = rng.exponential(1.0, size=shape) * (rng.random(shape) < 0.9)
    replicas = np.zeros((*shape, view.REPLICA_FEATURES), np.float32)
    for column, typical in LOADED_REPLICA.items():
        replicas[..., column] = typical * load * rng.uniform(0.5, 1.5, size=shape)
    replicas[..., view.KV_TOTAL_BLOCKS] = KV_TOTAL_BLOCKS
    replicas[..., view.SPEED] = rng.choice(SPEEDS, size=shape)
    legal = rng.random(shape) < 0.8
    legal[np.arange(num_observations), rng.integers(num_replicas, size=num_observations)] = True
    replicas[..., view.AVAILABLE] = legal
    return {"request": request, "replicas": replicas}


def golden_observation(num_replicas: int) -> dict[str, np.ndarray]:
    """The golden inputs for a fleet size: the same for every policy."""
    return plausible_observation(np.random.default_rng(num_replicas), NUM_GOLDEN, num_replicas)
