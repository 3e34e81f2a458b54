"""Making a fleet, and loading requests into it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost, prefill_attention_seconds, step_seconds
from servegym.costmodels.iterations.decode_spans import decode_lines
from servegym.costmodels.iterations.lookup import LookupAttention
from servegym.costmodels.iterations.power import NO_POWER, IterationPower
from servegym.costmodels.native.jit import jit
from servegym.costmodels.native.structs import struct, struct_array
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.fleet import with_advance
from servegym.envs.sim.llm.log import Log, no_log
from servegym.envs.sim.llm.memory import COUNTS_PER_WORD
from servegym.envs.sim.llm.prefix_state import (
    clear_cache,
    load_contents,
    new_prefix_cache,
    shared_block_keys,
)
from servegym.envs.sim.llm.ranking import check_ranking
from servegym.envs.sim.llm.ranking_state import RANKS_BATCH, RankingState, no_ranking
from servegym.envs.sim.llm.state import (
    FIRST_TOKEN_RATIO,
    NOBODY,
    NONE_URGENT,
    REPLICA,
    REQUEST,
    URGENT_PRIORITY,
    WAITING,
    Fleet,
)
from servegym.envs.workloads import Workload

REFERENCE_TOKENS = 256
"""Of the prompt by which the speeds of replicas are compared; fewer where a budget is smaller."""

_REQUEST_IDS = (
    "running_first",
    "running_last",
    "waiting_first",
    "waiting_last",
    "waiting_root",
    "prefilling_first",
    "prefilling_last",
    "swapped_first",
    "announced_first",
)


@dataclass(frozen=True)
class ReplicaSpec:
    """A replica: its engine, how long its iterations take and, where energy is counted, at which power.

    InputError where the engine may make a batch that `cost` has no time for.
    """

    engine: Engine
    cost: IterationCost
    power: IterationPower | None = None

    def __post_init__(self) -> None:
        for key, table in (
            ("max_num_batched_tokens", self.cost.linear_s),
            ("max_num_seqs", self.cost.lm_head_s),
        ):
            value, most = getattr(self.engine, key), len(table) - 1
            if value > most:
                raise InputError(f"engine.{key} = {value}: must be at most {most}, for which cost has times")

    def alike(self, other: "ReplicaSpec") -> bool:
        """Whether both can share their tables."""
        return self.cost is other.cost and self.engine == other.engine and self.power == other.power


def new_fleet(
    replicas: Sequence[ReplicaSpec],
    num_requests: int,
    *,
    num_episodes: int = 1,
    num_block_keys: int = 0,
    lookup: LookupAttention | None = None,
    log: Log | None = None,
    ranking: RankingState | None = None,
) -> Fleet:
    """`num_episodes` idle fleets side by side, with room for `num_requests` requests in all (to be loaded).

    num_block_keys: of their shared KV blocks, where there is prefix caching (see prefix_cache.py).
    Raises InputError where an engine needs a ranking and there is none.
    """
    count = len(replicas) * num_episodes
    if not 1 <= count <= np.iinfo(np.uint16).max:
        raise InputError(f"replicas = {count}: must be between 1 and 65535")
    kinds: list[ReplicaSpec] = []
    groups = []
    for spec in replicas:
        same = [i for i, kind in enumerate(kinds) if kind.alike(spec)]
        if not same:
            kinds.append(spec)
        groups.append(same[0] if same else len(kinds) - 1)
    engines = [kind.engine for kind in kinds]
    cost = struct_array([kind.cost for kind in kinds])
    first_chunk_s = _first_chunk_seconds(cost, len(kinds), max(len(kind.cost.linear_s) for kind in kinds))
    tokens = min([REFERENCE_TOKENS, *(engine.max_num_batched_tokens for engine in engines)])
    words = -(-max(engine.block_size for engine in engines) // COUNTS_PER_WORD)
    if ranking is None:
        ranking = no_ranking()
        for engine in engines:
            check_ranking(engine, None)
    seats = max(engine.max_num_seqs for engine in engines)
    if ranking.ranks == RANKS_BATCH:
        seats *= 2  # some are put into a batch before others are put off
    fleet = with_advance(
        Fleet(
            replicas=np.zeros(count, REPLICA).view(np.recarray),
            requests=np.zeros(num_requests, REQUEST).view(np.recarray),
            due=np.zeros((count, seats), np.int64),
            rests_above=np.zeros((count, words), np.int64),
            engines=struct_array(
                [kind.engine.numbers()._replace(counts_energy=int(kind.power is not None)) for kind in kinds]
            ),
            first_chunk_s=first_chunk_s,
            cost=cost,
            power=struct_array([kind.power or NO_POWER for kind in kinds]),
            decode_lines=struct_array([decode_lines(kind.cost) for kind in kinds]),
            speed=_speeds(cost, first_chunk_s, tokens),
            lookup=struct(lookup or LookupAttention(np.zeros((0, 0)), np.zeros((0, 0)))),
            refinement=np.zeros(1),
            urgent_priority=np.full(1, NONE_URGENT),
            log=struct(log or no_log()),
            cache=new_prefix_cache(
                np.tile(
                    [spec.engine.num_kv_blocks * spec.engine.prefix_caching for spec in replicas],
                    num_episodes,
                ),
                num_requests if any(engine.prefix_caching for engine in engines) else 0,
                num_block_keys,
            ),
            ranking=struct(ranking),
            advance=None,
        )
    )
    fleet.replicas.view(np.ndarray)["group"] = np.tile(np.array(groups, np.int32), num_episodes)
    clear(fleet, slice(None))
    return fleet


@jit
def _first_chunk_seconds(cost: Sequence[IterationCost], groups: int, size: int) -> np.ndarray:
    """Prefill attention of a chunk with nothing computed before it, by its tokens: nearly all chunks."""
    seconds = np.zeros((groups, size))
    for group in range(groups):
        for chunk in range(1, cost[group].linear_s.size):
            seconds[group, chunk] = prefill_attention_seconds(cost[group], chunk, 0)
    return seconds


@jit
def _speeds(cost: Sequence[IterationCost], first_chunk_s: np.ndarray, tokens: int) -> np.ndarray:
    """float64 (G,): seconds of an iteration of one prompt with so many tokens, of group 0 over each."""
    seconds = np.zeros(first_chunk_s.shape[0])
    for group in range(seconds.size):
        step_s = cost[group].prefill_overhead_s + step_seconds(cost[group], tokens, 1)
        seconds[group] = step_s + first_chunk_s[group, tokens]
    return seconds[0] / seconds


def fleet_with(
    workload: Workload,
    replicas: Sequence[ReplicaSpec],
    *,
    lookup: LookupAttention | None = None,
    log: Log | None = None,
    ranking: RankingState | None = None,
) -> Fleet:
    """A fleet with all requests of a workload, none of them routed yet; request `i` is number `i`."""
    block_size = max(spec.engine.block_size for spec in replicas)
    caching = any(spec.engine.prefix_caching for spec in replicas)
    keys, offsets = shared_block_keys(workload, block_size) if caching else (np.zeros(0, np.int64), None)
    count = workload.num_requests
    fleet = new_fleet(replicas, count, num_block_keys=len(keys), lookup=lookup, log=log, ranking=ranking)
    load_requests(fleet, np.arange(count, dtype=np.int32), workload)
    if offsets is not None:
        parent = np.full(count, NOBODY, np.int32) if workload.parent is None else workload.parent
        load_contents(fleet.cache, 0, 0, 0, keys, offsets, parent)
    return fleet


def clear(fleet: Fleet, replica_ids: slice) -> None:
    """Makes these replicas idle and empty at time 0."""
    numbers = range(len(fleet.replicas))[replica_ids]
    _clear(fleet, _IDLE, numbers.start, numbers.stop)
    if fleet.cache.slots.size > 0:
        for replica_id in numbers:
            clear_cache(fleet.cache, replica_id)


@jit
def _clear(fleet: Fleet, idle: np.ndarray, first: int, stop: int) -> None:
    for replica_id in range(first, stop):
        group = fleet.replicas[replica_id].group
        fleet.replicas[replica_id] = idle[0]
        fleet.replicas[replica_id].group = group
        for i in range(fleet.rests_above.shape[1]):
            fleet.rests_above[replica_id, i] = 0


def _idle_replica() -> np.ndarray:
    idle = np.zeros(1, REPLICA).view(np.recarray)
    idle["token_ratio"] = FIRST_TOKEN_RATIO
    for field in _REQUEST_IDS:
        idle[field] = NOBODY
    return idle


_IDLE = _idle_replica()


def load_requests(
    fleet: Fleet,
    request_ids: np.ndarray,
    workload: Workload,
    part: slice = slice(None),
) -> None:
    """Writes a part of n requests that have not been routed yet into the slots `request_ids`, int32 (n,).

    All that are loaded must agree in `prediction_refinement` and in whether they have priorities.
    """
    fleet.refinement[0] = workload.prediction_refinement or 0.0
    fleet.urgent_priority[0] = NONE_URGENT if workload.priority is None else URGENT_PRIORITY
    nothing = np.zeros(0, np.int32)
    predicted, limits, priority = (
        nothing if column is None else column[part]
        for column in (workload.predicted_output_tokens, workload.max_output_tokens, workload.priority)
    )
    _write_requests(
        fleet.requests,
        request_ids,
        workload.arrival_s[part],
        workload.prompt_tokens[part],
        workload.output_tokens[part],
        predicted,
        limits,
        priority,
    )


@jit
def _write_requests(
    requests: np.ndarray,
    request_ids: np.ndarray,
    arrival_s: np.ndarray,
    prompt_tokens: np.ndarray,
    output_tokens: np.ndarray,
    predicted_output_tokens: np.ndarray,
    max_output_tokens: np.ndarray,
    priority: np.ndarray,
) -> None:
    """One pass, request by request."""
    for i in range(arrival_s.size):
        request = requests[request_ids[i]]
        request.arrival_s = arrival_s[i]
        request.scheduled_s = np.nan
        request.first_token_s = np.nan
        request.finish_s = np.nan
        request.prompt_tokens = prompt_tokens[i]
        request.output_tokens = output_tokens[i]
        request.max_output_tokens = max_output_tokens[i] if max_output_tokens.size > 0 else output_tokens[i]
        request.predicted_tokens = predicted_output_tokens[i] if predicted_output_tokens.size > 0 else 0
        request.priority = priority[i] if priority.size > 0 else 0
        request.key = request.priority
        request.generated = 0
        request.image_s = 0.0
        request.chunk = 0
        request.hit_tokens = 0
        request.admission_hit_tokens = 0
        request.preemptions = 0
        request.state = WAITING
