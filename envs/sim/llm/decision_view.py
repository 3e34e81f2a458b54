"""What a scheduling agent sees of its replica while a decision is due, and which decisions are legal.

Columns are as docs/simulator.md, "Scheduler: agent", has them. The replica stands still at its clock.
"""

import numpy as np

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.batch import computed_tokens, known_tokens
from servegym.envs.sim.llm.decisions import NUM_ROWS, SHARES, VISIBLE
from servegym.envs.sim.llm.memory import blocks_for, kv_used_blocks
from servegym.envs.sim.llm.predictions import predicted_output_tokens, predicted_remaining_tokens
from servegym.envs.sim.llm.schedulers.agent import blocks_to_admit, may_admit, may_run, unclaimed
from servegym.envs.sim.llm.state import DECODING, NOBODY, WAITING, Fleet
from servegym.envs.sim.llm.view import queued_prefill_tokens

ENGINE_COLUMNS = (
    ("running", "requests"),
    ("waiting", "requests"),
    ("decoding", "requests"),
    ("admitted", "requests"),
    ("queued_prefill_tokens", "tokens"),
    ("outstanding_tokens", "tokens"),
    ("decode_context_tokens", "tokens"),
    ("kv_used_blocks", "blocks"),
    ("kv_total_blocks", "blocks"),
    ("unclaimed_tokens", "tokens"),
    ("unclaimed_blocks", "blocks"),
    ("seats_left", "requests"),
    ("predicted_remaining_tokens", "tokens"),
)
"""Name and unit of each number of the engine, in order."""

ROW_COLUMNS = (
    ("is_waiting", "0 or 1"),
    ("is_prefilling", "0 or 1"),
    ("is_decoding", "0 or 1"),
    ("prompt_tokens", "tokens"),
    ("known_tokens", "tokens"),
    ("computed_tokens", "tokens"),
    ("predicted_output_tokens", "tokens"),
    ("generated_tokens", "tokens"),
    ("since_arrival_s", "s"),
    ("priority", "1"),
    ("blocks", "blocks"),
    ("legal", "0 or 1"),
)
"""Name and unit of each number of a request, in order."""

OLDEST = 16
"""Rows for the head of a queue of more than VISIBLE; the rest of their rows are for the shortest."""

ENGINE_FEATURES = len(ENGINE_COLUMNS)
ROW_FEATURES = len(ROW_COLUMNS)

(
    IS_WAITING,
    IS_PREFILLING,
    IS_DECODING,
    PROMPT_TOKENS,
    KNOWN_TOKENS,
    COMPUTED_TOKENS,
    PREDICTED_OUTPUT_TOKENS,
    GENERATED_TOKENS,
    SINCE_ARRIVAL_S,
    PRIORITY,
    BLOCKS,
    LEGAL,
) = range(ROW_FEATURES)


@kernel
def write_decision(
    fleet: Fleet,
    replica_id: int,
    engine_row: np.ndarray,
    rows: np.ndarray,
    row_ids: np.ndarray,
    mask: np.ndarray,
) -> None:
    """Fills what is seen of a replica that stands at a decision.

    engine_row: float32 (ENGINE_FEATURES,). rows: float32 (NUM_ROWS, ROW_FEATURES), first waiting requests
    (`_waiting_seen`), from row VISIBLE on the running ones, last admitted first; 0 where there is none.
    row_ids: int32 (NUM_ROWS,), the request of each row or NOBODY. mask: bool (NUM_CHOICES,): what is legal.
    """
    replica = fleet.replicas[replica_id]
    tokens, blocks = unclaimed(fleet, replica_id, 1.0)
    _write_engine(fleet, replica_id, tokens, blocks, engine_row)
    count = _waiting_seen(fleet, replica_id, row_ids)
    for row in range(count):
        request_id = row_ids[row]
        legal = may_admit(fleet, replica_id, request_id, tokens, blocks)
        needs = blocks_to_admit(fleet, replica_id, request_id, tokens)
        _write_row(fleet, replica_id, request_id, 0, needs, legal, rows[row])
        mask[row] = legal
    _leave_empty(count, VISIBLE, rows, row_ids, mask)
    request_id = replica.running_last
    count = min(VISIBLE, replica.num_running)
    size = fleet.engines[replica.group].block_size
    for i in range(count):
        request = fleet.requests[request_id]
        legal = i >= replica.num_admitted and replica.num_running > 1
        computed = computed_tokens(fleet, replica_id, request_id)
        held = blocks_for(computed, size)
        _write_row(fleet, replica_id, request_id, computed, held, legal, rows[VISIBLE + i])
        row_ids[VISIBLE + i], mask[VISIBLE + i] = request_id, legal
        request_id = request.previous
    _leave_empty(VISIBLE + count, NUM_ROWS, rows, row_ids, mask)
    for choice in range(len(SHARES)):
        mask[NUM_ROWS + choice] = may_run(fleet, replica_id, SHARES[choice])


@kernel
def _waiting_seen(fleet, replica_id, row_ids):
    """Fills the first rows of `row_ids` with waiting requests in the order of the queue; returns how many.

    Where there are more than VISIBLE: the first OLDEST, and of the others the shortest, shortest first.
    """
    replica = fleet.replicas[replica_id]
    request_id, count = replica.waiting_first, min(VISIBLE, replica.num_waiting)
    first = count if replica.num_waiting <= VISIBLE else OLDEST
    for row in range(first):
        row_ids[row] = request_id
        request_id = fleet.requests[request_id].next
    end = first
    for _ in range(replica.num_waiting - first):
        tokens = _tokens_to_come(fleet, request_id)
        if end < VISIBLE or tokens < _tokens_to_come(fleet, row_ids[VISIBLE - 1]):
            row = min(end, VISIBLE - 1)
            while row > first and tokens < _tokens_to_come(fleet, row_ids[row - 1]):
                row_ids[row] = row_ids[row - 1]
                row -= 1
            row_ids[row] = request_id
            end = min(end + 1, VISIBLE)
        request_id = fleet.requests[request_id].next
    return count


@kernel
def _tokens_to_come(fleet, request_id):
    """Of a waiting request: those to prefill, and of its predicted output what is left."""
    request = fleet.requests[request_id]
    return known_tokens(fleet, request_id) + max(0, request.predicted_tokens - request.generated)


@kernel
def _leave_empty(first, last, rows, row_ids, mask):
    for row in range(first, last):
        rows[row] = 0.0
        row_ids[row] = NOBODY
        mask[row] = False


@kernel
def _write_engine(fleet, replica_id, tokens, blocks, row):
    replica = fleet.replicas[replica_id]
    engine = fleet.engines[replica.group]
    row[0] = replica.num_running
    row[1] = replica.num_waiting
    row[2] = replica.num_decodes
    row[3] = replica.num_admitted
    row[4] = queued_prefill_tokens(replica)
    row[5] = replica.prompt_tokens + replica.generated_tokens
    row[6] = replica.context_offset + replica.num_decodes * replica.iteration
    row[7] = kv_used_blocks(fleet, replica_id)
    row[8] = engine.num_kv_blocks
    row[9] = tokens
    row[10] = max(0, blocks)
    row[11] = engine.max_num_seqs - replica.num_running
    row[12] = predicted_remaining_tokens(fleet, replica_id)


@kernel
def _write_row(fleet, replica_id, request_id, computed, blocks, legal, row):
    request = fleet.requests[request_id]
    decoding = request.state == DECODING
    generated = computed + 1 - request.prompt_tokens if decoding else request.generated
    row[IS_WAITING] = request.state == WAITING
    row[IS_PREFILLING] = request.state != WAITING and not decoding
    row[IS_DECODING] = decoding
    row[PROMPT_TOKENS] = request.prompt_tokens
    row[KNOWN_TOKENS] = request.prompt_tokens + generated
    row[COMPUTED_TOKENS] = computed
    row[PREDICTED_OUTPUT_TOKENS] = (
        request.predicted_tokens
        if request.state == WAITING
        else predicted_output_tokens(fleet, request_id, generated)
    )
    row[GENERATED_TOKENS] = generated
    row[SINCE_ARRIVAL_S] = fleet.replicas[replica_id].clock_s - request.arrival_s
    row[PRIORITY] = request.priority
    row[BLOCKS] = blocks
    row[LEGAL] = legal
