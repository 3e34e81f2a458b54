"""Plausible observations, on which an exported policy is held to its scores."""

from collections.abc import Callable

import numpy as np

from servegym.agents.serving.artifact.schema import LEVELS, REPLICAS
from servegym.envs.sim.llm import decision_view, view
from servegym.envs.sim.llm.decisions import NUM_ROWS, VISIBLE

NUM_GOLDEN = 48
"""Golden observations per fleet size: not the size of another axis, or an exporter takes them for one."""

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
    view.UNSEEN_REQUESTS: 4.0,
    view.UNSEEN_PREFILL_TOKENS: 4_000.0,
}
"""Typical values of a loaded replica that serves conversations."""

LOADED_ENGINE = (40.0, 8.0, 38.0, 1.0, 4e3, 5e4, 4e4, 3e3, 2e4, 6e3, 1e4, 100.0, 1e4)
"""Likewise of an engine, in the order of ENGINE_COLUMNS."""

KV_TOTAL_BLOCKS = 20_000.0

TYPICAL_SETTING = (6.4e-3, 1.7e-5, 8.9e-6, 5.6e-8, 2048.0, 16.0, 200.0, 0.0, 1.0)
"""Of an H100 with a model of 8 billion parameters, whose objective is latency."""

WHOLE = [
    column
    for column, (_, unit) in enumerate(view.REPLICA_COLUMNS)
    if unit in ("requests", "tokens", "blocks")
]
"""Columns of a replica that count something."""

SPEEDS = (0.3, 1.0, 3.0)
"""Of replicas on GPUs of different generations."""

PRIORITIES = (-1.0, 0.0, 1.0)


def plausible_observation(
    level: str, rng: np.random.Generator, num_observations: int, num_replicas: int
) -> dict[str, np.ndarray]:
    """What a policy of a level reads: a leading axis K, idle to overloaded, at least one action legal."""
    arrays: dict[str, Callable[[], np.ndarray]] = {
        "level": lambda: np.arange(num_observations, dtype=np.float32) % 2,
        "request": lambda: _request(rng, num_observations),
        "replicas": lambda: _replicas(rng, num_observations, num_replicas),
        "setting": lambda: _setting(rng, num_observations),
        "engine": lambda: _engine(rng, num_observations),
        "requests": lambda: _requests(rng, num_observations),
    }
    observation = {name: arrays[name]() for name in LEVELS[level].inputs}
    if "level" in observation:
        routing = observation["level"] == 0
        observation["request"][~routing] = 0.0
        observation["engine"][routing] = 0.0
        observation["requests"][routing] = 0.0
    return observation


def _setting(rng: np.random.Generator, num_observations: int) -> np.ndarray:
    setting = np.tile(np.array(TYPICAL_SETTING, np.float32), (num_observations, 1))
    setting[:, view.OVERHEAD_S : view.TOKEN_BUDGET] *= rng.choice(SPEEDS, size=(num_observations, 1))
    setting[:, view.TTFT_WEIGHT] = rng.integers(2, size=num_observations)
    setting[:, view.LATENCY_WEIGHT] = 1.0 - setting[:, view.TTFT_WEIGHT]
    return setting


def golden_observation(level: str, num_replicas: int) -> dict[str, np.ndarray]:
    """The golden inputs for a fleet size: the same for every policy."""
    return plausible_observation(level, np.random.default_rng(num_replicas), NUM_GOLDEN, num_replicas)


def fleet_sizes(level: str, only: int | None) -> tuple[int, ...]:
    """The fleet sizes of the golden inputs of a policy, which takes `only` that one; None: any."""
    if only is not None:
        return (only,)
    return FLEET_SIZES if REPLICAS in (array.rows for array in LEVELS[level].inputs.values()) else (1,)


def _request(rng: np.random.Generator, count: int) -> np.ndarray:
    request = np.zeros((count, view.REQUEST_FEATURES), np.float32)
    for column, mean in MEAN_REQUEST.items():
        request[:, column] = rng.exponential(mean, size=count)
    request[:, [view.PROMPT_TOKENS, view.PREDICTED_OUTPUT_TOKENS]] = np.round(
        request[:, [view.PROMPT_TOKENS, view.PREDICTED_OUTPUT_TOKENS]]
    )
    request[:, view.PRIORITY] = rng.choice(PRIORITIES, size=count)
    return request


def _replicas(rng: np.random.Generator, count: int, num_replicas: int) -> np.ndarray:
    shape = (count, num_replicas)
    load = rng.exponential(1.0, size=shape) * (rng.random(shape) < 0.9)
    replicas = np.zeros((*shape, view.REPLICA_FEATURES), np.float32)
    for column, typical in LOADED_REPLICA.items():
        replicas[..., column] = typical * load * rng.uniform(0.5, 1.5, size=shape)
    replicas[..., WHOLE] = np.round(replicas[..., WHOLE])
    replicas[..., view.KV_TOTAL_BLOCKS] = KV_TOTAL_BLOCKS
    replicas[..., view.SPEED] = rng.choice(SPEEDS, size=shape)
    legal = rng.random(shape) < 0.8
    legal[np.arange(count), rng.integers(num_replicas, size=count)] = True
    replicas[..., view.AVAILABLE] = legal
    return replicas


def _engine(rng: np.random.Generator, count: int) -> np.ndarray:
    load = rng.exponential(1.0, size=(count, 1))
    engine = np.array(LOADED_ENGINE) * load * rng.uniform(0.5, 1.5, size=(count, len(LOADED_ENGINE)))
    return np.round(engine).astype(np.float32)


def _requests(rng: np.random.Generator, count: int) -> np.ndarray:
    """Up to 32 that wait and up to 32 that run, the last admitted of these still in their prefill."""
    shape = (count, NUM_ROWS)
    row = np.arange(NUM_ROWS) % VISIBLE
    waits = np.broadcast_to(np.arange(NUM_ROWS) < VISIBLE, shape)
    there = row < np.where(waits, *rng.integers(0, VISIBLE + 1, size=(2, count, 1)))
    prefills = ~waits & (row < 2)
    rows = np.zeros((*shape, decision_view.ROW_FEATURES), np.float32)
    prompt = np.ceil(rng.exponential(1_000.0, size=shape))
    generated = np.floor(rng.exponential(100.0, size=shape)) * (~waits & ~prefills)
    computed = np.where(prefills, np.floor(prompt * rng.random(shape)), prompt + generated) * ~waits
    rows[..., decision_view.IS_WAITING] = waits
    rows[..., decision_view.IS_PREFILLING] = prefills
    rows[..., decision_view.IS_DECODING] = ~waits & ~prefills
    rows[..., decision_view.PROMPT_TOKENS] = prompt
    rows[..., decision_view.KNOWN_TOKENS] = prompt + generated
    rows[..., decision_view.COMPUTED_TOKENS] = computed
    rows[..., decision_view.PREDICTED_OUTPUT_TOKENS] = generated + np.ceil(rng.exponential(200.0, size=shape))
    rows[..., decision_view.GENERATED_TOKENS] = generated
    rows[..., decision_view.SINCE_ARRIVAL_S] = rng.exponential(3.0, size=shape)
    rows[..., decision_view.PRIORITY] = rng.choice(PRIORITIES, size=shape)
    rows[..., decision_view.BLOCKS] = np.ceil((prompt + generated) / 16)
    rows[..., decision_view.LEGAL] = rng.random(shape) < 0.7
    rows[~there] = 0.0
    return rows
