"""What a router sees: one row of numbers per replica, and one for the request to be routed.

Columns, units and the instant they refer to are specified in docs/simulator.md.
"""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import evict, known_tokens
from servegym.envs.sim.llm.engine import LIGHTLLM, ORCA, SARATHI, VLLM_V0, VLLM_V1
from servegym.envs.sim.llm.memory import kv_used_blocks
from servegym.envs.sim.llm.predictions import predicted_remaining_tokens
from servegym.envs.sim.llm.prefix_cache import lookup
from servegym.envs.sim.llm.search_tree import arrived_before
from servegym.envs.sim.llm.state import NOBODY, Fleet

REPLICA_COLUMNS = (
    ("available", "0 or 1"),
    ("running", "requests"),
    ("waiting", "requests"),
    ("queued_prefill_tokens", "tokens"),
    ("outstanding_tokens", "tokens"),
    ("decode_context_tokens", "tokens"),
    ("kv_used_blocks", "blocks"),
    ("kv_total_blocks", "blocks"),
    ("iteration_left_s", "s"),
    ("predicted_remaining_tokens", "tokens"),
    ("kv_released_per_iteration", "tokens"),
    ("prefix_hit_tokens", "tokens"),
    ("speed", "1"),
    ("unseen_requests", "requests"),
    ("unseen_prefill_tokens", "tokens"),
)
"""Name and unit of each number a router sees of a replica, in order."""

LOAD_COLUMNS = (("urgent", "requests"), ("first_waiting_tokens", "tokens"))
STANDING_COLUMNS = (("standing", "1"), ("role", "1"))
"""And of those that only routers and rebalancers get, after them: of the load, and of the fleet."""

REQUEST_COLUMNS = (
    ("prompt_tokens", "tokens"),
    ("predicted_output_tokens", "tokens"),
    ("gap_s", "s"),
    ("priority", "1"),
)
"""Name and unit of each number of the request to be routed that routers and observations have, in order."""

IDENTITY_COLUMNS = (("session", "1"), ("prefix", "1"))
"""And of those that only routers get, after them."""

SETTING_COLUMNS = (
    ("overhead_s", "s"),
    ("s_per_prefill_token", "s"),
    ("s_per_decode", "s"),
    ("s_per_context_token", "s"),
    ("token_budget", "tokens"),
    ("block_size", "tokens"),
    ("mean_output_tokens", "tokens"),
    ("ttft_weight", "1"),
    ("latency_weight", "1"),
)
"""What an operator tells an agent once: the clock of replicas with SPEED 1 (`LinearClock`), limits of their
engine, what requests were like so far, and the objective."""

REPLICA_FEATURES = len(REPLICA_COLUMNS)
ROUTER_REPLICA_FEATURES = REPLICA_FEATURES + len(LOAD_COLUMNS) + len(STANDING_COLUMNS)
REQUEST_FEATURES = len(REQUEST_COLUMNS)
SETTING_FEATURES = len(SETTING_COLUMNS)
ROUTER_REQUEST_FEATURES = REQUEST_FEATURES + len(IDENTITY_COLUMNS)

(
    AVAILABLE,
    RUNNING,
    WAITING,
    QUEUED_PREFILL_TOKENS,
    OUTSTANDING_TOKENS,
    DECODE_CONTEXT_TOKENS,
    KV_USED_BLOCKS,
    KV_TOTAL_BLOCKS,
    ITERATION_LEFT_S,
    PREDICTED_REMAINING_TOKENS,
    KV_RELEASED_PER_ITERATION,
    PREFIX_HIT_TOKENS,
    SPEED,
    UNSEEN_REQUESTS,
    UNSEEN_PREFILL_TOKENS,
    URGENT,
    FIRST_WAITING_TOKENS,
    STANDING,
    ROLE,
) = range(ROUTER_REPLICA_FEATURES)

PROMPT_TOKENS, PREDICTED_OUTPUT_TOKENS, GAP_S, PRIORITY, SESSION, PREFIX = range(ROUTER_REQUEST_FEATURES)

(
    OVERHEAD_S,
    S_PER_PREFILL_TOKEN,
    S_PER_DECODE,
    S_PER_CONTEXT_TOKEN,
    TOKEN_BUDGET,
    BLOCK_SIZE,
    MEAN_OUTPUT_TOKENS,
    TTFT_WEIGHT,
    LATENCY_WEIGHT,
) = range(SETTING_FEATURES)


@kernel
def queued_prefill_tokens(replica: np.record) -> int:
    """Tokens that a replica has still to prefill after the iteration in flight."""
    queued: int = replica.waiting_tokens + replica.prefill_left_tokens
    return queued


@kernel
def write_replica_row(fleet: Fleet, replica_id: int, now_s: float, row: np.ndarray) -> None:
    """Fills `row` (REPLICA_FEATURES,) with replica `replica_id`, already advanced to `now_s`.

    PREFIX_HIT_TOKENS, which depends on the request, is written by `write_hit_tokens`, what only routers get
    by `write_load_columns`. What is unseen is 0 in a plain fleet; `cluster/unseen.py` has it of any other.
    """
    replica = fleet.replicas[replica_id]
    row[AVAILABLE] = 1.0
    row[RUNNING] = replica.num_running
    row[WAITING] = replica.num_waiting + replica.num_swapped
    row[QUEUED_PREFILL_TOKENS] = queued_prefill_tokens(replica)
    row[OUTSTANDING_TOKENS] = replica.prompt_tokens + replica.generated_tokens
    context = replica.context_offset + replica.num_decodes * replica.iteration
    row[DECODE_CONTEXT_TOKENS] = context + replica.num_held * replica.in_flight + replica.paused_context
    row[KV_USED_BLOCKS] = kv_used_blocks(fleet, replica_id)
    row[KV_TOTAL_BLOCKS] = fleet.engines[replica.group].num_kv_blocks
    row[ITERATION_LEFT_S] = replica.clock_s - now_s if replica.in_flight else 0.0
    row[PREDICTED_REMAINING_TOKENS] = predicted_remaining_tokens(fleet, replica_id)
    row[KV_RELEASED_PER_ITERATION] = (
        replica.released_tokens / replica.num_iterations if replica.num_iterations > 0 else 0.0
    )
    row[SPEED] = fleet.speed[replica.group]


@kernel
def write_load_columns(fleet: Fleet, replica_id: int, row: np.ndarray) -> None:
    """Fills what of `row` (ROUTER_REPLICA_FEATURES,) only routers get of a replica's load."""
    replica = fleet.replicas[replica_id]
    row[URGENT] = replica.num_urgent
    row[FIRST_WAITING_TOKENS] = 0.0
    if replica.num_waiting > 0:
        first = replica.waiting_first
        if fleet.engines[replica.group].scheduler not in (VLLM_V1, VLLM_V0, SARATHI, ORCA, LIGHTLLM):
            first = _first_to_arrive(fleet, replica_id)
        row[FIRST_WAITING_TOKENS] = known_tokens(fleet, first)


@routine
def _first_to_arrive(fleet: Fleet, replica_id: int) -> int:
    """Of those that wait for a scheduler which does not go by the queue."""
    replica = fleet.replicas[replica_id]
    first = replica.waiting_first
    request_id = first
    for _ in range(replica.num_waiting):
        if arrived_before(fleet, request_id, first):
            first = request_id
        request_id = fleet.requests[request_id].next
    return first


@kernel
def write_hit_tokens(fleet: Fleet, replica_id: int, request_id: int, row: np.ndarray) -> None:
    """Completes a row for the request to be routed; NOBODY: there is none."""
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    row[PREFIX_HIT_TOKENS] = 0.0
    if engine.prefix_caching and request_id != NOBODY:
        evict(fleet, replica_id, replica.in_flight * replica.decodes_run)
        most = (known_tokens(fleet, request_id) - 1) // engine.block_size
        hits, _ = lookup(fleet.cache, replica_id, request_id, most)
        row[PREFIX_HIT_TOKENS] = hits * engine.block_size


@kernel
def write_hits_of_arrival(fleet: Fleet, replica_id: int, request_id: int, row: np.ndarray) -> None:
    """The same for a request that was nowhere before and follows nobody up: only shared blocks are hit."""
    row[PREFIX_HIT_TOKENS] = 0.0
    known = request_id != NOBODY and fleet.cache.requests.size > 0
    if known and fleet.cache.requests[request_id].num_shared > 0:
        write_hit_tokens(fleet, replica_id, request_id, row)


@kernel
def write_request_row(fleet: Fleet, request_id: int, gap_s: float, row: np.ndarray) -> None:
    """Fills `row` with request `request_id`, which came `gap_s` after the last, up to its identity."""
    request = fleet.requests[request_id]
    row[PROMPT_TOKENS] = request.prompt_tokens
    row[PREDICTED_OUTPUT_TOKENS] = request.predicted_tokens
    row[GAP_S] = gap_s
    row[PRIORITY] = request.priority
