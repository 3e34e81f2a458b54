"""Asking a ranking: docs/simulator.md, "Rankings". Rows of requests in, keys out, requests in order."""

import math

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.calls import call_at, call_back
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm import ranking as columns
from servegym.envs.sim.llm.batch import computed_tokens, known_tokens
from servegym.envs.sim.llm.memory import free_now
from servegym.envs.sim.llm.predictions import generated_tokens, predicted_output_tokens
from servegym.envs.sim.llm.ranking_state import NEVER_SERVED, NO_RANKING, UNSEEN
from servegym.envs.sim.llm.search_tree import arrived_before
from servegym.envs.sim.llm.state import BROUGHT, DECODING, NOBODY, Fleet

NO_KEY = "the ranking gave a request a key that is no number: every key must be written, and not be NaN"

SORTED_RUN = 8
"""So many rows are sorted by insertion before runs are merged."""


@routine
def write_key(fleet: Fleet, replica_id: int, request_id: int, now_s: float) -> None:
    """Asks about a request that enters a waiting queue: its key."""
    request = fleet.requests[request_id]
    computed = known_tokens(fleet, request_id) - 1 if request.state == BROUGHT else 0
    _write_row(fleet, request_id, 0, request.generated, computed, float(request.predicted_tokens))
    fleet.ranking.rows[0, columns.PLACE] = columns.WAITING
    fleet.ranking.rows[0, columns.SERVED] = 0.0
    _write_row_of_replica(fleet, replica_id, now_s)
    _ask(fleet, replica_id, 1)
    key = fleet.ranking.keys[0]
    if math.isnan(key):
        raise InputError(NO_KEY)
    request.key = key


@routine
def order_requests(fleet: Fleet, replica_id: int) -> int:
    """Asks about all requests of a replica that is between iterations.

    `ranking.order` then has them, first come who go first; returns their number.
    """
    ranking = fleet.ranking
    replica = fleet.replicas[replica_id]
    rows = 0
    request_id = replica.running_first
    for _ in range(replica.num_running):
        request = fleet.requests[request_id]
        generated = generated_tokens(fleet, replica_id, request_id)
        predicted = predicted_output_tokens(fleet, request_id, generated)
        _write_row(
            fleet, request_id, rows, generated, computed_tokens(fleet, replica_id, request_id), predicted
        )
        served = request.state == DECODING or ranking.last_batch[request_id] == replica.num_iterations
        ranking.rows[rows, columns.PLACE] = columns.RUNNING
        ranking.rows[rows, columns.SERVED] = 1.0 if served else 0.0
        rows += 1
        request_id = request.next
    rows = _write_rows_of_list(fleet, replica.waiting_first, replica.num_waiting, columns.WAITING, rows)
    rows = _write_rows_of_list(fleet, replica.swapped_first, replica.num_swapped, columns.SWAPPED, rows)
    present = rows
    request_id = ranking.gone_first[replica_id]
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        _write_row(
            fleet, request_id, rows, request.generated, request.computed, float(request.predicted_tokens)
        )
        served = ranking.last_batch[request_id] == replica.num_iterations
        ranking.rows[rows, columns.PLACE] = columns.GONE
        ranking.rows[rows, columns.SERVED] = 1.0 if served else 0.0
        rows += 1
        request_id = ranking.gone[request_id]
    ranking.gone_first[replica_id] = NOBODY
    _write_row_of_replica(fleet, replica_id, replica.clock_s)
    ranking.row_of_replica[columns.LAST_ITERATION_S] = replica.last_iteration_s
    ranking.row_of_replica[columns.FREE_BLOCKS] = free_now(fleet, replica_id)
    _ask(fleet, replica_id, rows)
    _sort(fleet, present)
    return present


@routine
def note_gone(fleet: Fleet, replica_id: int, request_id: int, computed: int, was_served: bool) -> None:
    """A request has left with so many computed tokens: the ranking is told where it has seen it."""
    ranking = fleet.ranking
    if ranking.last_batch[request_id] == UNSEEN:
        return
    fleet.requests[request_id].computed = computed
    if was_served:
        ranking.last_batch[request_id] = fleet.replicas[replica_id].num_iterations
    ranking.gone[request_id] = ranking.gone_first[replica_id]
    ranking.gone_first[replica_id] = request_id


@routine
def forget_request(fleet: Fleet, request_id: int) -> None:
    """A request goes to another replica, or anew to any."""
    ranking = fleet.ranking
    if ranking.ranks != NO_RANKING:
        ranking.last_batch[request_id] = UNSEEN
        for i in range(columns.MEMORY_COLUMNS):
            ranking.request_memory[request_id, i] = 0.0


@routine
def forget_replica(fleet: Fleet, replica_id: int) -> None:
    """What a ranking remembers of a replica is lost."""
    ranking = fleet.ranking
    if ranking.ranks != NO_RANKING:
        ranking.gone_first[replica_id] = NOBODY
        for i in range(ranking.memory.shape[1]):
            ranking.memory[replica_id, i] = 0.0


@kernel
def _write_rows_of_list(fleet, request_id, count, place, rows):
    """Of the waiting queue or those swapped out; returns the number of rows then."""
    for _ in range(count):
        request = fleet.requests[request_id]
        computed = request.computed if place == columns.SWAPPED else 0
        _write_row(fleet, request_id, rows, request.generated, computed, float(request.predicted_tokens))
        fleet.ranking.rows[rows, columns.PLACE] = place
        fleet.ranking.rows[rows, columns.SERVED] = 0.0
        rows += 1
        request_id = request.next
    return rows


@kernel
def _write_row(fleet, request_id, place, generated, computed, predicted):
    """All of a row but where the request is; `predicted` output tokens by now."""
    ranking, request = fleet.ranking, fleet.requests[request_id]
    row = ranking.rows[place]
    row[columns.ARRIVAL_S] = request.arrival_s
    row[columns.PROMPT_TOKENS] = request.prompt_tokens
    row[columns.GENERATED_TOKENS] = generated
    row[columns.COMPUTED_TOKENS] = computed
    row[columns.PREDICTED_OUTPUT_TOKENS] = request.predicted_tokens
    row[columns.PREDICTED_REMAINING_TOKENS] = predicted - generated
    row[columns.PRIORITY] = request.priority
    row[columns.TENANT] = ranking.promises[request_id, 0]
    row[columns.TTFT_SLO_S] = ranking.promises[request_id, 1]
    row[columns.TPOT_SLO_S] = ranking.promises[request_id, 2]
    for i in range(columns.MEMORY_COLUMNS):
        row[columns.MEMORY + i] = ranking.request_memory[request_id, i]
    ranking.ids[place] = request_id
    if ranking.last_batch[request_id] == UNSEEN:
        ranking.last_batch[request_id] = NEVER_SERVED


@kernel
def _write_row_of_replica(fleet, replica_id, now_s):
    """All of it but what only a ranking of batches is told."""
    engine = fleet.engines[fleet.replicas[replica_id].group]
    row = fleet.ranking.row_of_replica
    row[columns.NOW_S] = now_s
    row[columns.LAST_ITERATION_S] = 0.0
    row[columns.FREE_BLOCKS] = 0.0
    row[columns.TOTAL_BLOCKS] = engine.num_kv_blocks
    row[columns.BLOCK_SIZE] = engine.block_size
    row[columns.MAX_BATCHED_TOKENS] = engine.max_num_batched_tokens
    row[columns.MAX_SEQS] = engine.max_num_seqs


@kernel
def _ask(fleet, replica_id, rows):
    """Calls the ranking with the first `rows` rows, and keeps what it has written of each request."""
    ranking = fleet.ranking
    for i in range(rows):
        ranking.keys[i] = math.nan
    if ranking.callback != 0:
        if call_back(ranking.callback, replica_id, rows) != 0:
            raise RuntimeError("the ranking has raised an exception")
    else:
        arguments = (
            ranking.rows[:rows],
            ranking.row_of_replica,
            ranking.parameters,
            ranking.memory[replica_id],
            ranking.keys[:rows],
        )
        call_at(ranking.rank, arguments)
    for i in range(rows):
        request_id = ranking.ids[i]
        for column in range(columns.MEMORY_COLUMNS):
            ranking.request_memory[request_id, column] = ranking.rows[i, columns.MEMORY + column]


@kernel
def _comes_before(fleet, row, other):
    ranking = fleet.ranking
    if ranking.keys[row] != ranking.keys[other]:
        return ranking.keys[row] < ranking.keys[other]
    return arrived_before(fleet, ranking.ids[row], ranking.ids[other])


@kernel
def _sort(fleet, count):
    """Requests of the first `count` rows by key, arrival and number (merge sort from the bottom up)."""
    ranking = fleet.ranking
    order, merged = ranking.order, ranking.merged
    for row in range(count):
        if math.isnan(ranking.keys[row]):
            raise InputError(NO_KEY)
        place = row
        first = row - row % SORTED_RUN
        while place > first and _comes_before(fleet, row, order[place - 1]):
            order[place] = order[place - 1]
            place -= 1
        order[place] = row
    width = SORTED_RUN
    while width < count:
        for start in range(0, count, 2 * width):
            middle, end = min(start + width, count), min(start + 2 * width, count)
            left, right = start, middle
            for place in range(start, end):
                if left < middle and (right >= end or not _comes_before(fleet, order[right], order[left])):
                    merged[place] = order[left]
                    left += 1
                else:
                    merged[place] = order[right]
                    right += 1
        for place in range(count):
            order[place] = merged[place]
        width *= 2
    for place in range(count):
        order[place] = ranking.ids[order[place]]
