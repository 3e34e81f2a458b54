"""The two contracts between a policy and a serving system.

A **router policy** scores replicas for a request. An **engine policy** says what an engine's next
iteration is made of. Learned policies, heuristics and anybody's own code are the same to an adapter, which
knows nothing but these two and the state they are asked about.
"""

from typing import NamedTuple, Protocol

import numpy as np

ILLEGAL = -1e9
"""Score of a replica that must not be chosen."""

UNKNOWN = -1.0
"""In place of the session of a request that belongs to none."""


class RouterPolicy(Protocol):
    """Scores the replicas of a fleet for one request.

    One whose class says `bounded = True` cannot hang, since all it does is arithmetic of a known size; any
    other is asked in a thread that can be left behind.
    """

    name: str

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        """float32 (R,), higher is better, ILLEGAL where `available` is 0; valid until the next call.

        request: float32 (4,), the REQUEST_FEATURES of artifact/schema.py. replicas: float32 (R, 15), its
        REPLICA_FEATURES. session: a number that requests of one session share.
        """


REQUEST_COLUMNS = (
    "prompt_tokens",
    "generated_tokens",
    "computed_tokens",
    "predicted_output_tokens",
    "since_arrival_s",
    "priority",
    "blocks",
)
"""Of a request in an engine. computed: tokens with their KV entries; 0 of one that waits. predicted_output: 0
where nobody predicts. blocks: KV blocks that it holds."""

(
    PROMPT_TOKENS,
    GENERATED_TOKENS,
    COMPUTED_TOKENS,
    PREDICTED_OUTPUT_TOKENS,
    SINCE_ARRIVAL_S,
    PRIORITY,
    BLOCKS,
) = range(len(REQUEST_COLUMNS))


class EngineLimits(NamedTuple):
    """What an engine was started with.

    token_budget: tokens of an iteration. max_num_seqs: requests that may run at once. block_size: tokens of a
    KV block; num_kv_blocks: all there are. reserve_full_prompt: a request is admitted only where all blocks
    of its prompt are free.
    """

    token_budget: int
    max_num_seqs: int
    block_size: int
    num_kv_blocks: int
    reserve_full_prompt: bool = True


class EngineState(NamedTuple):
    """An engine between two iterations.

    waiting: float64 (W, 7) of REQUEST_COLUMNS, in the order of the queue. running: float64 (N, 7), in
    order of admission. free_blocks: KV blocks that nobody holds.
    """

    limits: EngineLimits
    waiting: np.ndarray
    running: np.ndarray
    free_blocks: int


class EnginePlan(NamedTuple):
    """What the next iteration is to be made of, in numbers of the rows of an `EngineState`.

    preempt: running requests that give their memory back and wait again. waiting: who is admitted first;
    those not named stay behind in their order. running: who is served first, and given up last where
    memory is lacking; None: as they are. max_running: how many may run, those admitted included.
    token_budget: tokens of the iteration. prefill_chunk: most tokens of one prefill; 0: as many as there
    are.
    """

    preempt: tuple[int, ...]
    waiting: tuple[int, ...]
    running: tuple[int, ...] | None
    max_running: int
    token_budget: int
    prefill_chunk: int = 0


class EnginePolicy(Protocol):
    """Plans the next iteration of one engine. One that needs to remember is one object an engine.

    `bounded` as of a router policy.
    """

    name: str

    def plan(self, state: EngineState) -> EnginePlan:
        """The plan for an engine that has somebody waiting or in prefill.

        Where it raises, or `fault_of_plan` finds fault with it, the engine's own rules decide.
        """


def as_it_is(state: EngineState) -> EnginePlan:
    """The plan that leaves everything to the engine's own rules."""
    limits = state.limits
    return EnginePlan((), tuple(range(len(state.waiting))), None, limits.max_num_seqs, limits.token_budget)


def fault_of_plan(plan: EnginePlan, state: EngineState) -> str:
    """What is wrong with a plan, in a few words; empty where nothing is."""
    num_waiting, num_running = len(state.waiting), len(state.running)
    for numbers, size, what in (
        (plan.preempt, num_running, "preempt"),
        (plan.waiting, num_waiting, "waiting"),
        (plan.running or (), num_running, "running"),
    ):
        if len(set(numbers)) != len(numbers) or any(not 0 <= number < size for number in numbers):
            return f"{what} names a request twice or one that is not there"
    if plan.running is not None and len(plan.running) != num_running:
        return "running leaves a request out"
    if not 1 <= plan.token_budget <= state.limits.token_budget:
        return f"token_budget = {plan.token_budget}"
    if not 1 <= plan.max_running <= state.limits.max_num_seqs:
        return f"max_running = {plan.max_running}"
    if plan.prefill_chunk < 0:
        return f"prefill_chunk = {plan.prefill_chunk}"
    return ""
