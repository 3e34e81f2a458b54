"""What a router knows of a request when it arrives that may say how long its output will be."""

from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.envs.workloads.workload import Workload

Floats = npt.NDArray[np.float64]

PREFIX_BUCKETS = 32
CLASS_BUCKETS = 8

GROUPS: dict[str, tuple[str, ...]] = {
    "prompt": ("log_prompt",),
    "arrival": ("log_gap",),
    "images": ("log_image",),
    "limit": ("log_limit",),
    "priority": ("priority",),
    "slo_class": tuple(f"slo_class_{k}" for k in range(CLASS_BUCKETS)),
    "history": ("is_follow_up", "turn", "log_previous_output", "mean_log_output", "log_new"),
    "prefix": ("log_shared", *(f"first_block_{k}" for k in range(PREFIX_BUCKETS))),
}
"""Names of features by what they come from: one of these is there as a whole or not at all."""

FEATURES = tuple(name for names in GROUPS.values() for name in names)


def length_features(workload: Workload) -> Floats:
    """Features float64 (N, F) in the order of `FEATURES`; NaN where the workload does not say.

    Tokens and seconds as log(1 + x); `log_gap` since the arrival before, of any client. The SLO class and
    the first block of the prompt are one-hot, ids modulo the number of buckets, so that different ids may
    fall together. `log_shared`: tokens of the longest prefix shared with an earlier request. `history`: of
    the request that this one follows up (`previous_requests`): turns so far, its output, the mean of
    the logarithms of all outputs of the conversation, and the tokens that are new in this prompt; NaN but
    for `is_follow_up` and `turn` where there is none. A request's own output is in no feature of its own.
    """
    n = workload.num_requests
    columns = np.full((n, len(FEATURES)), np.nan)

    def put(name: str, values: npt.ArrayLike) -> None:
        columns[:, FEATURES.index(name)] = values

    put("log_prompt", np.log1p(workload.prompt_tokens))
    put("log_gap", np.log1p(np.diff(workload.arrival_s, prepend=workload.arrival_s[:1])))
    for name, tokens in (("log_image", workload.image_tokens), ("log_limit", workload.max_output_tokens)):
        if tokens is not None:
            put(name, np.log1p(tokens))
    if workload.priority is not None:
        put("priority", workload.priority)
    if workload.slo_class is not None:
        for k in range(CLASS_BUCKETS):
            put(f"slo_class_{k}", workload.slo_class % CLASS_BUCKETS == k)
    if workload.parent is None and workload.prefix_ids is None:
        return columns
    previous, shared_tokens = previous_requests(workload)
    if shared_tokens is not None:
        put("log_shared", np.log1p(shared_tokens))
        bucket = _first_blocks(workload)
        for k in range(PREFIX_BUCKETS):
            put(f"first_block_{k}", bucket == k)
    for name, values in _history(workload, previous)._asdict().items():
        put(name, values)
    return columns


def previous_requests(workload: Workload) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """(index (N,) of the request that each one follows up, -1: none; tokens (N,) shared with earlier ones).

    The first is `parent` where the workload has sessions. Else it is read off the prompts (our reading): the
    last request that holds the deepest block known so far, if no other conversation has held that block,
    if all its whole blocks, at least one, are shared, and if the prompt is long enough to contain its
    prompt and its output. Such a prompt contains that output, so its length is known then, even where a
    replay faster than the trace has it still running. Without `prefix_ids` the second is None.
    """
    n = workload.num_requests
    parent = workload.parent
    previous = np.full(n, -1) if parent is None else parent.astype(np.int64)
    if workload.prefix_ids is None or workload.prefix_offsets is None:
        return previous, None
    block_tokens = workload.prefix_block_tokens
    prompts, outputs = workload.prompt_tokens.tolist(), workload.output_tokens.tolist()
    all_ids, offsets = workload.prefix_ids.tolist(), workload.prefix_offsets.tolist()
    last_holder: dict[int, int] = {}
    common: set[int] = set()  # blocks that several conversations hold: system prompts, documents
    first = list(range(n))  # request of the conversation
    shared_tokens = np.zeros(n, np.int64)
    for i in range(n):
        ids = all_ids[offsets[i] : offsets[i + 1]]
        depth = next((k for k, block in enumerate(ids) if block not in last_holder), len(ids))
        shared_tokens[i] = min(depth * block_tokens, prompts[i])
        if depth and parent is None:
            j = last_holder[ids[depth - 1]]
            whole_blocks = prompts[j] // block_tokens
            contained = 1 <= whole_blocks <= depth and prompts[i] >= prompts[j] + outputs[j]
            if contained and ids[depth - 1] not in common:
                previous[i], first[i] = j, first[j]
            common.update(block for block in ids[:depth] if first[last_holder[block]] != first[i])
        last_holder.update(zip(ids, repeat(i)))
    return previous, shared_tokens


class _History(NamedTuple):
    """Columns (N,) of the group `history`."""

    is_follow_up: Floats
    turn: Floats
    log_previous_output: Floats
    mean_log_output: Floats
    log_new: Floats


def _history(workload: Workload, previous: npt.NDArray[np.int64]) -> _History:
    n = workload.num_requests
    turn, total = np.zeros(n), np.zeros(n)
    log_output = np.log1p(workload.output_tokens)
    for i in np.flatnonzero(previous >= 0):  # ascending, so what is before is done
        j = previous[i]
        turn[i], total[i] = turn[j] + 1, total[j] + log_output[j]
    follows = previous >= 0
    known = workload.prompt_tokens.astype(np.int64) + workload.output_tokens
    new = np.maximum(workload.prompt_tokens - known[previous], 0)
    return _History(
        is_follow_up=follows.astype(np.float64),
        turn=np.log1p(turn),
        log_previous_output=np.where(follows, log_output[previous], np.nan),
        mean_log_output=np.where(follows, total / np.maximum(turn, 1), np.nan),
        log_new=np.where(follows, np.log1p(new), np.nan),
    )


def _first_blocks(workload: Workload) -> npt.NDArray[np.int64]:
    """(N,) bucket of the first block; -1 for a prompt without blocks."""
    assert workload.prefix_ids is not None and workload.prefix_offsets is not None
    starts, ends = workload.prefix_offsets[:-1], workload.prefix_offsets[1:]
    bucket = np.full(workload.num_requests, -1, dtype=np.int64)
    has = ends > starts
    bucket[has] = workload.prefix_ids[starts[has]] % PREFIX_BUCKETS
    return bucket
