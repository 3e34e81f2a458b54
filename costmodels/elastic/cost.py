"""`ElasticCost`: iterations of a group of instances as flat tables, and their evaluation.

Formulas: docs/elastic_sequence_parallelism.md, "The time of an iteration" (LoongServe, SOSP 2024).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import (
    IterationCost,
    decode_attention_seconds,
    step_seconds,
    validate_iteration_cost,
)
from servegym.costmodels.native.jit import kernel

Floats = NDArray[np.float64]


class ElasticCost(NamedTuple):
    """Seconds of iterations on 1 to N instances of equal tensor parallelism; M = most requests of a group.

    The first axis of three is 0 for what stays within a node, 1 for what crosses nodes.
    """

    prefill_s: Floats  # (2, N + 1, 3) by instances: A, B (a token), C (a token squared); row 0 is zero
    decode_s: float  # of every decode iteration; 0: as composed from what follows
    iteration: IterationCost  # of one instance
    exchange_s: Floats  # (2, M + 1) by requests: their queries out, partial attention back
    migrate_s_per_token: Floats  # (2,) KV tokens from one instance to another
    migrate_latency_s: Floats  # (2,)


def validate_elastic_cost(cost: ElasticCost) -> None:
    """Raises `InputError` naming the field unless shapes fit and every iteration takes time."""
    validate_iteration_cost(cost.iteration)
    for name in ("prefill_s", "exchange_s", "migrate_s_per_token", "migrate_latency_s"):
        array = np.asarray(getattr(cost, name))
        if array.dtype != np.float64 or not array.flags.c_contiguous:
            raise InputError(f"ElasticCost.{name} is {array.dtype}, must be C-contiguous float64")
        bad = array[~(np.isfinite(array) & (array >= 0))]
        if bad.size:
            raise InputError(f"ElasticCost.{name} holds {bad[0]}, must be finite and not negative")
    instances, seqs = cost.prefill_s.shape[1] - 1, cost.iteration.lm_head_s.size
    shapes = {
        "prefill_s": (2, instances + 1, 3),
        "exchange_s": (2, seqs),
        "migrate_s_per_token": (2,),
        "migrate_latency_s": (2,),
    }
    for name, shape in shapes.items():
        found = getattr(cost, name).shape
        if found != shape:
            raise InputError(f"ElasticCost.{name} has shape {found}, must be {shape}")
    if instances < 1:
        raise InputError("ElasticCost.prefill_s covers no instance, must cover 1 or more")
    if not (cost.prefill_s[:, 1:].sum(axis=2) > 0).all():
        raise InputError("ElasticCost.prefill_s: a prefill takes no time, A + B + C must be above 0")
    if not 0 <= cost.decode_s < np.inf:
        raise InputError(f"ElasticCost.decode_s is {cost.decode_s}, must be finite and at least 0")


@kernel
def prefill_seconds(
    cost: ElasticCost, crosses: int, instances: int, sum_tokens: float, sum_squares: float
) -> float:
    """`A + B S1 + C S2` on `instances >= 1` instances."""
    seconds: float = (
        cost.prefill_s[crosses, instances, 0]
        + cost.prefill_s[crosses, instances, 1] * sum_tokens
        + cost.prefill_s[crosses, instances, 2] * sum_squares
    )
    return seconds


@kernel
def master_seconds(cost: ElasticCost, requests: int) -> float:
    """What a master does for its `requests >= 1` alone: all but attention and exchange."""
    return step_seconds(cost.iteration, requests, requests)


@kernel
def attention_seconds(cost: ElasticCost, requests: int, kv_tokens: int) -> float:
    """Attention of a group's `requests` to the `kv_tokens` of theirs that one member holds."""
    return decode_attention_seconds(cost.iteration, requests, kv_tokens)


@kernel
def migration_seconds(cost: ElasticCost, crosses: int, tokens: int) -> float:
    """To move KV `tokens >= 1` from one instance to another."""
    seconds: float = cost.migrate_latency_s[crosses] + tokens * cost.migrate_s_per_token[crosses]
    return seconds


def linear_elastic_cost(
    instances: int,
    *,
    constant_s: float = 0.02,
    per_token_s: float = 5e-5,
    per_token_squared_s: float = 2e-9,
    decode_s: float = 0.0,
    iteration: IterationCost,
    exchange_s: float = 1e-4,
    migrate_s_per_token: float = 6e-7,
    far: float = 4.0,
) -> ElasticCost:
    """A textbook fleet: `k` instances are `k` times as fast as one; between nodes all takes `far` times
    the exchange, migration and constant."""
    degrees = np.arange(1, instances + 1)
    prefill_s = np.zeros((2, instances + 1, 3))
    for crosses, slower in enumerate((1.0, far)):
        prefill_s[crosses, 1:, 0] = constant_s * np.where(degrees > 1, slower, 1.0)
        prefill_s[crosses, 1:, 1] = per_token_s / degrees
        prefill_s[crosses, 1:, 2] = per_token_squared_s / degrees
    requests = np.arange(iteration.lm_head_s.size)
    cost = ElasticCost(
        prefill_s=prefill_s,
        decode_s=decode_s,
        iteration=iteration,
        exchange_s=np.array([exchange_s * (requests > 0), far * exchange_s * (requests > 0)]),
        migrate_s_per_token=np.array([migrate_s_per_token, far * migrate_s_per_token]),
        migrate_latency_s=np.zeros(2),
    )
    validate_elastic_cost(cost)
    return cost
