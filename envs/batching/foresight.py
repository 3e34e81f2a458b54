"""What requests on an engine will still cost in latency, from the tokens that they really have to come. Ours.

A decision on who gets a place is paid for over thousands of later ones, and a discount would forgive most of
it. So the objective may charge (`charge_expected_wait`), beside waits for prefills, the seconds that requests
will still decode, and those that they will wait for places, when it is decided: shaping by a potential
(envs/routing/reward.py), which may know what the agent does not and leaves the return the same.

Of an engine with n requests, `S = min(n, max_num_seqs, what fits into its KV blocks)` are taken to decode at
a time, in iterations that last as long as S of them make them:

    decoding   tokens to come of all n * seconds of an iteration
    places     for each beyond S, shortest first: tokens to come of those who run and of all that go before,
               shared out among S, * seconds of an iteration

Who waits is told apart by the octave of its tokens to come only, which saves sorting.
"""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.routing.reward import Foresight
from servegym.envs.sim.llm.state import Fleet

OCTAVES = 24
"""Of tokens to come; the last holds all from 2^23 on."""


@kernel
def places(requests: int, most: int, kv_tokens: int, tokens_each: float) -> int:
    """How many of `requests` can run at a time: so many seats, and KV for so many tokens in the mean each."""
    return max(1, min(requests, most, int(kv_tokens / max(1.0, tokens_each))))


@kernel
def waits_for_places(counts: np.ndarray, tokens: np.ndarray, free: int, running_tokens: float) -> float:
    """Tokens that all who wait let pass before they get a place, in total.

    counts, tokens: int64 (OCTAVES,), of those who wait, by their tokens to come; the shortest `free` of them
    get a place at once. running_tokens: to come of those who run.

    >>> counts, tokens = np.zeros(OCTAVES, np.int64), np.zeros(OCTAVES, np.int64)
    >>> counts[3], tokens[3] = 2, 20  # two of 10 each
    >>> waits_for_places(counts, tokens, free=0, running_tokens=100.0)  # 100, and 100 + 10
    210.0
    >>> waits_for_places(counts, tokens, free=1, running_tokens=100.0)  # the other one only
    110.0
    """
    ahead, total = running_tokens, 0.0
    for octave in range(OCTAVES):
        count = counts[octave]
        if count == 0:
            continue
        each = tokens[octave] / count
        at_once = min(free, count)
        free -= at_once
        ahead += at_once * each
        waiting = count - at_once
        total += waiting * ahead + 0.5 * waiting * (waiting - 1) * each
        ahead += waiting * each
    return total


@routine
def expected_latency_s(
    fleet: Fleet, replica_id: int, foresight: Foresight, counts: np.ndarray, tokens: np.ndarray
) -> float:
    """Seconds that the requests of a replica will still decode, and wait for places, about, in total.

    counts, tokens: int64 (OCTAVES,), to work in.
    """
    replica = fleet.replicas[replica_id]
    requests = replica.num_unfinished
    if requests == 0:
        return 0.0
    running, to_come = replica.num_decodes, 0
    context = replica.context_offset + running * replica.iteration
    for place in range(running):
        to_come += max(0, (fleet.due[replica_id, place] >> 32) - replica.iteration)
    request_id = replica.prefilling_first
    for _ in range(replica.num_prefilling):
        request = fleet.requests[request_id]
        to_come += request.output_tokens - request.generated
        context += request.prompt_tokens + request.generated
        request_id = request.next_prefilling
    running += replica.num_prefilling
    running_tokens = float(to_come)
    counts[:] = 0
    tokens[:] = 0
    request_id = replica.waiting_first
    for _ in range(replica.num_waiting):
        request = fleet.requests[request_id]
        own = request.output_tokens - request.generated
        octave = 0
        while octave < OCTAVES - 1 and own >> (octave + 1) > 0:
            octave += 1
        counts[octave] += 1
        tokens[octave] += own
        to_come += own
        context += request.prompt_tokens + request.generated
        request_id = request.next
    engine = fleet.engines[replica.group]
    mean_context = (context + 0.5 * to_come) / requests
    most = places(requests, engine.max_num_seqs, engine.num_kv_blocks * engine.block_size, mean_context)
    most = max(most, running)
    iteration_s = (
        foresight.overhead_s
        + foresight.s_per_decode * most
        + foresight.s_per_context_token * most * mean_context
    )
    passed = 0.0
    if requests > most:
        passed = waits_for_places(counts, tokens, most - running, running_tokens) / most
    return float((to_come + passed) * iteration_s / fleet.speed[replica.group])
