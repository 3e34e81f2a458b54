"""The state of a simulated fleet: flat arrays that compiled code reads and writes in place.

A `Fleet` can hold the replicas of many episodes side by side (episode `e` owns replicas `e R .. e R + R - 1`
and a slice of the requests); nothing here knows about episodes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.iterations.decode_spans import DecodeLines
from servegym.costmodels.iterations.lookup import LookupAttention
from servegym.costmodels.iterations.power import IterationPower
from servegym.envs.sim.llm.engine import EngineNumbers
from servegym.envs.sim.llm.log import Log
from servegym.envs.sim.llm.prefix_state import PrefixCache
from servegym.envs.sim.llm.ranking_state import RankingState

FIRST_TOKEN_RATIO = 0.7
"""SGLang's `init_new_token_ratio`."""

NOBODY = -1
"""Where a request id is expected and there is none."""

REPLICA = np.dtype(
    [
        ("clock_s", np.float64),  # in flight: its end; else: when the next one may start, inf: unknown
        ("in_flight", np.int64),  # 1 while an iteration runs
        ("iteration", np.int64),  # iterations completed in which decodes ran
        ("num_iterations", np.int64),  # iterations completed
        ("num_running", np.int64),  # length of the running list
        ("num_waiting", np.int64),  # length of the waiting queue
        ("num_decodes", np.int64),  # running requests whose prefill is complete
        ("decodes_run", np.int64),  # 0 where the iteration in flight is all prefill
        ("num_held", np.int64),  # decodes left out of an iteration in flight in which others run
        ("held_context", np.int64),  # sum over these of computed tokens minus 1
        ("num_prefilling", np.int64),  # running requests whose prefill is not complete
        ("context_offset", np.int64),  # sum over decodes of computed tokens minus `iteration`
        ("waiting_tokens", np.int64),  # sum of known tokens over the waiting queue
        ("prefill_left_tokens", np.int64),  # that prefilling requests lack after the iteration in flight
        ("prefill_blocks", np.int64),  # KV blocks of running requests not decoding, less what requests share
        ("anchor_blocks", np.int64),  # sum over decodes of `anchor` // block size, see memory.py
        ("prompt_tokens", np.int64),  # sum over requests here
        ("generated_tokens", np.int64),  # sum over requests here
        ("predicted_tokens", np.int64),  # sum of predicted output over requests here
        ("released_tokens", np.int64),  # KV tokens of finished requests
        ("num_before_first_token", np.int64),
        ("num_unfinished", np.int64),
        ("num_urgent", np.int64),  # of these, by `Fleet.urgent_priority`
        ("ttft_offset_s", np.float64),  # total TTFT so far is this plus num_before_first_token * now
        ("latency_offset_s", np.float64),  # total latency so far is this plus num_unfinished * now
        ("decodes_left", np.int64),  # iterations known to follow the one in flight, see `step_decodes`
        ("decode_segment", np.int64),  # of decode attention, on which they all are
        ("active_j", np.float64),  # joules of its iterations beyond idle power, where they are counted
        ("num_finishing", np.int64),  # FINISHING requests
        ("batch_prefill_tokens", np.int64),  # of the batch being put together
        ("batch_sampled", np.int64),  # prefills in it that sample a token
        ("batch_s", np.float64),  # seconds of its prefill attention and of swapping
        ("num_swapped", np.int64),  # requests with their KV on the host
        ("swap_used_blocks", np.int64),
        ("beside_s", np.float64),  # of swapping that goes on beside the batch, see `swap_ahead_blocks`
        ("num_paused", np.int64),  # PAUSED requests
        ("paused_context", np.int64),  # sum over these of computed tokens
        ("last_iteration_s", np.float64),  # ranked: length of the last iteration
        ("since_attempt", np.int64),  # LightLLM: decode iterations since it last tried to prefill
        ("token_ratio", np.float64),  # SGLang: share of an output limit that it expects to be used
        ("ratio_set_at", np.int64),  # and `iteration` from which on that share falls
        ("kept_blocks", np.int64),  # of prefill_blocks: of requests that have left or are to come
        ("reserved_seats", np.int64),  # for requests that migrate here
        ("num_admitted", np.int64),  # agent: last of the running, since the decision fell due
        ("group", np.int32),  # of equal replicas: row of Fleet.engines and Fleet.cost
        ("running_first", np.int32),
        ("running_last", np.int32),
        ("waiting_first", np.int32),
        ("waiting_last", np.int32),
        ("waiting_root", np.int32),  # where its order is not first come first served, see search_tree.py
        ("prefilling_first", np.int32),
        ("prefilling_last", np.int32),
        ("swapped_first", np.int32),
        ("announces", np.int32),  # 1: it lists the requests that finish here, or are handed over
        ("hands_over", np.int32),  # 1: requests leave it, with their KV, when their prefill is complete
        ("announced_first", np.int32),
        ("announced_last", np.int32),
    ],
    align=True,
)
"""One replica. Token and block counts are exact integers."""

REQUEST = np.dtype(
    [
        ("arrival_s", np.float64),
        ("scheduled_s", np.float64),
        ("first_token_s", np.float64),
        ("finish_s", np.float64),
        ("image_s", np.float64),  # that encoding its images adds to the iteration which admits it
        ("key", np.float64),  # its place in a queue that is not first come first served
        ("prompt_tokens", np.int32),
        ("output_tokens", np.int32),
        ("max_output_tokens", np.int32),
        ("predicted_tokens", np.int32),  # 0 without a predictor
        ("generated", np.int32),  # tokens sampled, kept current while not decoding
        ("anchor", np.int32),  # while decoding: computed tokens minus the replica's iteration
        ("computed", np.int32),  # while prefilling, paused or swapped out
        ("chunk", np.int32),  # tokens given in the iteration being scheduled or in flight; HELD
        ("blocks", np.int32),  # held while prefilling, paused or (on the host) swapped out
        ("hit_tokens", np.int32),  # found in the prefix cache, over all admissions
        ("admission_hit_tokens", np.int32),  # and at an admission in the iteration in flight
        ("next", np.int32),  # in the waiting queue, running list or list of those announced
        ("previous", np.int32),  # in the running list
        ("next_prefilling", np.int32),
        ("left", np.int32),  # in the tree of the waiting queue
        ("right", np.int32),
        ("priority", np.int32),
        ("state", np.int32),  # one of the states below
        ("replica", np.uint16),
        ("preemptions", np.uint16),
    ],
    align=True,
)
"""One request."""

HELD = -1
"""`chunk` of a decode that sits the iteration in flight out."""

URGENT_PRIORITY = 0
"""Requests with this priority number or a smaller one are urgent, where the workload gives priorities."""

NONE_URGENT = -(1 << 31) - 1
"""`Fleet.urgent_priority` of requests without priorities."""

WAITING, PREFILLING, DECODING, FINISHING, SWAPPED, ENDED, BROUGHT, SENT, PAUSED = range(9)
"""Where a request stands; WAITING also before it arrives, FINISHING within the end of an iteration.

SENT: it has left a replica that still holds its KV. BROUGHT: it waits with the KV that came along.
PAUSED: it runs and has sampled a token since it was admitted, but is put off.
"""


class Fleet(NamedTuple):
    """Everything the compiled simulator works on.

    replicas: REPLICA (S,); requests: REQUEST (N,).
    due: int64 (S, max_num_seqs), a heap per replica of `iteration << 32 | request`: when decodes finish;
    twice as long where batches are ranked.
    rests_above: int64 (S, ceil(block_size / 4)), decodes whose `anchor` modulo the block size is above 0, 1,
    ...: four counts of 16 bits a word.
    engines, cost, power and decode_lines (what follows from cost): of each group of equal replicas.
    speed: float64 (G,), the column SPEED of what a router sees.
    first_chunk_s: float64 (G, T + 1), prefill attention of a chunk that starts a prompt.
    lookup: attention looked up instead of interpolated, where its tables are not empty.
    cache: the prefix caches.
    ranking: who says who goes first, where somebody does, and what it remembers.
    advance: address of the function that takes a replica forward in time, see fleet.py.
    refinement: float64 (1,), `Workload.prediction_refinement` of the requests loaded, 0 for none.
    urgent_priority: int64 (1,), the largest priority number of those loaded that is urgent, or NONE_URGENT.
    log: the log of iterations; with it, or with `lookup`, every iteration is carried out by itself.
    """

    replicas: np.ndarray
    requests: np.ndarray
    due: np.ndarray
    rests_above: np.ndarray
    engines: Sequence[EngineNumbers]
    first_chunk_s: np.ndarray
    cost: Sequence[IterationCost]
    power: Sequence[IterationPower]
    decode_lines: Sequence[DecodeLines]
    speed: np.ndarray
    lookup: LookupAttention
    refinement: np.ndarray
    urgent_priority: np.ndarray
    log: Log
    cache: PrefixCache
    ranking: RankingState
    advance: Any
