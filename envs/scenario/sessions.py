"""Sessions: requests that follow up on others, after a time to think about the answer (a closed loop)."""

from collections.abc import Callable
from dataclasses import replace
from heapq import heappop, heappush

import numpy as np

from servegym.envs.scenario.config import ClientsConfig
from servegym.envs.workloads import Workload

Fits = Callable[[Workload], np.ndarray]
"""bool (N,): which requests of a workload fit somewhere."""


def with_sessions(
    workload: Workload, clients: ClientsConfig, fits: Fits, seed: np.random.SeedSequence
) -> Workload:
    """The same N requests as turns of sessions, geometric numbers of turns with the mean `session_turns`.

    After each turn its session goes on with probability 1 - 1 / `session_turns`, an exponential time to think
    later: it takes the first request of the stream from then on that no other session takes. Requests that
    nobody takes start sessions. What a follow-up had as its prompt is what its user adds to all that was said
    before; it comes a time to think after the answer, so later than its place in the stream by the time
    that its session has waited for answers. The rate of all turns is therefore about that of the stream, to
    which no request is added, and less where a fleet that is slow makes sessions wait; sessions that go on
    when the stream ends are broken off. A follow-up that would fit
    nowhere starts a session of its own.
    """
    if clients.session_turns == 1:
        return workload
    parent, think_s = _follow_ups(workload.arrival_s, clients, seed)
    while True:
        sessions = _in_sessions(workload, parent, think_s)
        too_long = (parent >= 0) & ~fits(sessions)
        if not too_long.any():
            return sessions
        parent[too_long & ~too_long[parent]] = -1  # the first of each session, the next ones follow it up


def _follow_ups(
    arrival_s: np.ndarray, clients: ClientsConfig, seed: np.random.SeedSequence
) -> tuple[np.ndarray, np.ndarray]:
    """Of each request the one that it follows up on, or -1, and the seconds between answer and follow-up."""
    count = len(arrival_s)
    turns, thinking = map(np.random.default_rng, seed.spawn(2))
    goes_on = turns.random(count) >= 1 / clients.session_turns
    thinks_s = thinking.exponential(clients.mean_think_s, count)
    parent = np.full(count, -1)
    due: list[tuple[float, int]] = []
    for i, now_s in enumerate(arrival_s.tolist()):
        if due and due[0][0] <= now_s:
            parent[i] = heappop(due)[1]
        if goes_on[i]:
            heappush(due, (now_s + thinks_s[i], i))
    return parent, np.where(parent >= 0, thinks_s[parent], 0.0)


def _in_sessions(workload: Workload, parent: np.ndarray, think_s: np.ndarray) -> Workload:
    """With the prompts that grow from turn to turn."""
    starts = parent < 0
    added = workload.prompt_tokens.astype(np.int64) + workload.output_tokens
    session, said_before = np.cumsum(starts) - 1, np.zeros(len(parent), np.int64)
    for i in np.flatnonzero(~starts).tolist():
        session[i] = session[parent[i]]
        said_before[i] = said_before[parent[i]] + added[parent[i]]
    return replace(
        workload,
        prompt_tokens=workload.prompt_tokens + said_before,
        session_id=session,
        parent=parent,
        think_s=np.where(starts, 0.0, think_s),
    )
