"""The records of a simulated elastic fleet, as compiled code has them.

Names in docs/elastic_sequence_parallelism.md.
"""

from typing import Any, NamedTuple

import numpy as np

from servegym.costmodels.elastic.cost import ElasticCost

RESTS, PREFILLS, DECODES = range(3)
"""What a group does."""

WAITING, FINISHED, REJECTED, TO_COME = range(4)
"""What has become of a request: WAITING, too, while it is served."""

NOBODY = -1
"""In place of a group or a request."""

(
    NUM_REQUESTS,
    NEXT_ARRIVAL,
    NUM_WAITING,  # in the queue
    NUM_FINISHED,
    FINISHED_TOKENS,  # their output
    NUM_REJECTED,
    NUM_PREFILLS,
    NUM_DECODES,  # iterations
    NUM_SCALE_UPS,
    NUM_MIGRATIONS,
    MIGRATED_TOKENS,
    NUM_PAUSES,
    PAUSED,  # the loop returns to its caller
) = range(13)
NUM_COUNTERS = 13

ERROR_CODE, ERROR_GROUP, ERROR_REQUEST, ERROR_INSTANCE = range(4)

(
    NO_ERROR,
    NOT_WAITING,
    INSTANCE_RUNS,
    NO_SUCH_INSTANCE,
    NO_ROOM,
    GROUP_TOO_LARGE,
    TOO_MANY_GROUPS,
    NOT_AT_REST,
    ALREADY_MEMBER,
    SAME_GROUP,
    TOO_FEW_TOKENS,
    NOTHING_GIVEN,
    PYTHON_ERROR,
) = range(13)


class FleetState(NamedTuple):
    """N instances, G groups (at most 4 N), up to R requests, L in a group."""

    cost: ElasticCost
    # settings
    num_instances: int
    kv_tokens: int  # C
    instances_per_node: int  # P
    max_group: int  # L
    # requests
    arrival_s: np.ndarray  # float64 (R,)
    prompt: np.ndarray  # int64 (R,)
    output: np.ndarray  # int64 (R,)
    produced: np.ndarray  # int64 (R,) output tokens up to the last `settle` of its group
    kv: np.ndarray  # int32 (R, N) likewise
    group_of: np.ndarray  # int32 (R,) NOBODY
    fate: np.ndarray  # int8 (R,)
    first_token_s: np.ndarray  # float64 (R,) nan
    finish_s: np.ndarray  # float64 (R,) nan
    limits: np.ndarray  # float64 (R, 2) of lateness, inf: accrual.py
    # the queue: a ring of R + 1 links, the last of which is its start
    after: np.ndarray  # int32 (R + 1,)
    before: np.ndarray  # int32 (R + 1,)
    # instances
    used: np.ndarray  # int64 (N,)
    runs_for: np.ndarray  # int32 (N,) a group, NOBODY
    # groups
    size: np.ndarray  # int64 (G,) requests; 0: no such group
    requests: np.ndarray  # int32 (G, L) in order
    activity: np.ndarray  # int8 (G,)
    end_s: np.ndarray  # float64 (G,) of what it runs, inf
    member: np.ndarray  # int8 (G, N)
    group_kv: np.ndarray  # int64 (G, N) KV tokens of its requests
    # decode iterations that `produced` and `kv` do not know of yet; all with the same masters
    steps: np.ndarray  # int64 (G,)
    steps_to_finish: np.ndarray  # int64 (G,) after so many a request finishes
    num_masters: np.ndarray  # int64 (G,)
    masters: np.ndarray  # int32 (G, N)
    mini_batches: np.ndarray  # int32 (G, N) of the masters
    # clock
    clock: np.ndarray  # float64 (1,)
    counters: np.ndarray  # int64 (NUM_COUNTERS,)
    error: np.ndarray  # int64 (4,)
    rates: np.ndarray  # float64 (3,) what grows in a second: accrual.py
    costs: np.ndarray  # float64 (4,) what has accrued
    # room to work
    order: np.ndarray  # int32 (N,) members of a group in some order
    shares: np.ndarray  # int32 (N,) mini-batches in that order
    # manager
    manage: Any  # address of `manage`, 0 where it is Python
    callback: int  # address of one in Python
    parameters: np.ndarray  # float64 (P,)
    memory: np.ndarray  # float64 its own
    integers: np.ndarray  # int64 its own
