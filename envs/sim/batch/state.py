"""The records of a simulated cluster, as compiled code has them. Names in docs/batch_serving.md."""

from typing import Any, NamedTuple

import numpy as np

FREED, ARRIVAL, TIMER = range(3)
"""What a scheduler is called for; the subject is a GPU, a model, a timer."""

GOOD, LATE, DROPPED, UNSERVED = range(4)
"""How requests end."""

OUTCOMES = ("good", "late", "dropped", "unserved")

INACTIVE, STARTING, ACTIVE = range(3)
"""What a GPU is."""

NOBODY = -1
"""In place of a GPU, a batch or a request."""

(
    NUM_REQUESTS,
    NEXT_ARRIVAL,
    NUM_ENDED,  # served or dropped
    NUM_BAD,  # of these
    NUM_DROPPED,
    NUM_BATCHES,
    NUM_PREEMPTED,
    NUM_ROWS,  # of `batches` in use so far
    NUM_FREE_ROWS,  # of these given back
    NUM_ACTIVE,  # GPUs, those starting as well
    PAUSED,  # the loop returns to its caller
    TIMERS_AT_ONCE,
) = range(12)
NUM_COUNTERS = 12

NOW, NEXT_SCALE, LAST_ACTION, ENERGY = range(4)
NUM_CLOCKS = 4

ERROR_CODE, ERROR_MODEL, ERROR_GPU, ERROR_SIZE = range(4)

(
    NO_ERROR,
    DISPATCH_SIZE,
    DISPATCH_GPU,
    DROP_SIZE,
    PREEMPT_GPU,
    TIMERS_STAND_STILL,
    SCALE_RANGE,
    PYTHON_ERROR,
) = range(8)

BATCH = np.dtype(
    [
        ("start_s", np.float64),
        ("end_s", np.float64),
        ("model", np.int32),
        ("gpu", np.int32),
        ("num_requests", np.int32),
        ("first", np.int32),  # of its requests
        ("num_bad", np.int32),
        ("unused", np.int32),
    ]
)


class ClusterState(NamedTuple):
    """M models, G GPUs, up to N requests."""

    # settings
    num_models: int
    num_gpus: int
    control_s: float
    data_s: float
    response_s: float
    has_limited_memory: int
    latency_s: np.ndarray  # float64 (M, B + 1): [m, b], inf beyond the largest batch and at 0
    energy_j: np.ndarray  # float64 (M, B + 1)
    max_batch: np.ndarray  # int64 (M,)
    slo_s: np.ndarray  # float64 (M,)
    # requests
    arrival_s: np.ndarray  # float64 (N,)
    model: np.ndarray  # int32 (N,)
    batch_of: np.ndarray  # int32 (N,) its row in `batches`, NOBODY
    next_in_batch: np.ndarray  # int32 (N,)
    drop_s: np.ndarray  # float64 (N,) when it was dropped, nan
    # queues: requests of model m wait in queue[head[m]:tail[m]]
    queue: np.ndarray  # int32 (N,)
    head: np.ndarray  # int64 (M,)
    tail: np.ndarray  # int64 (M,)
    # batches
    batches: np.ndarray  # BATCH (N,)
    free_rows: np.ndarray  # int32 (N,)
    # GPUs
    status: np.ndarray  # int8 (G,)
    held: np.ndarray  # int64 (G,) batches it has: one that runs, one behind
    holds: np.ndarray  # int32 (G, 2) their rows
    last_ended: np.ndarray  # int32 (G,) row of the batch that ended last, NOBODY
    free_at_s: np.ndarray  # float64 (G,)
    starts_at_s: np.ndarray  # float64 (G,) of one that is STARTING
    used_from_s: np.ndarray  # float64 (G,) nan where not in use
    used_s: np.ndarray  # float64 (G,)
    busy_s: np.ndarray  # float64 (G,) of batches that have ended
    next_free: np.ndarray  # tree over GPUs: the next FREED
    with_room: np.ndarray  # tree over GPUs: free_at_s where there is room
    idle: np.ndarray  # tree over GPUs: 0 where idle
    # memory
    memory_bytes: np.ndarray  # float64 (M,)
    load_s: np.ndarray  # float64 (M,)
    room_bytes: np.ndarray  # float64 (G,)
    loaded_s: np.ndarray  # float64 (G, M) from when a GPU has a model; inf: it has not
    used_at_s: np.ndarray  # float64 (G, M) last dispatch
    # clock
    timers: np.ndarray  # tree over M + 1 timers
    clock: np.ndarray  # float64 (NUM_CLOCKS,)
    counters: np.ndarray  # int64 (NUM_COUNTERS,)
    error: np.ndarray  # int64 (4,)
    # scheduler
    schedule: Any  # address of `schedule`, 0 where it is Python
    callback: int  # address of one in Python
    parameters: np.ndarray  # float64 (P,)
    memory: np.ndarray  # float64 its own
    model_memory: np.ndarray  # float64 (M, its own)
    gpu_memory: np.ndarray  # float64 (G, its own)
    pool: np.ndarray  # tree over models: those it may choose from, by what it chooses
    # autoscaler
    scale: Any  # address of `scale`, 0 for Python or none
    scale_callback: int
    every_s: float
    startup_s: float
    scale_parameters: np.ndarray  # float64
    scale_memory: np.ndarray  # float64
    signal: np.ndarray  # float64 (SIGNAL_COLUMNS,)
    wanted: np.ndarray  # int64 (1,) its answer
    arrived: np.ndarray  # int64 (M,) since the last call
    ended_before: np.ndarray  # int64 (2,) ended and bad up to the last call
    busy_before_s: np.ndarray  # float64 (1,)
