"""The slow executable specification of the LLM simulator: docs/simulator.md, one loop per iteration."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from tests.reference.cost import iteration_s

Choose = Callable[[NDArray[np.float64], NDArray[np.float64]], int]


@dataclass
class Engine:
    """The limits of one replica's engine."""

    max_num_batched_tokens: int
    max_num_seqs: int
    block_size: int
    num_kv_blocks: int


class Iteration(NamedTuple):
    """What one iteration did; `chunks` are `(new tokens, computed tokens before them)`."""

    start_s: float
    end_s: float
    tokens: int
    sampled: int
    chunks: list[tuple[int, int]]
    num_decodes: int
    kv_tokens: int
    kv_used_blocks: int


@dataclass
class Result:
    """One entry per request in workload order, what the router saw, and a log of every replica."""

    replica: NDArray[np.int64]
    scheduled_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]
    preemptions: NDArray[np.int64]
    views: list[NDArray[np.float64]]
    requests: list[NDArray[np.float64]]
    iterations: list[list[Iteration]]


@dataclass(eq=False)
class Request:
    """A request, with its place in the engine and what has happened to it."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    predicted_output_tokens: float
    generated: int = 0
    computed: int = 0
    blocks: int = 0
    tokens_in_flight: int = 0
    decoding: bool = False  # it has sampled a token since it was last admitted
    replica: int = -1
    scheduled_s: float = math.nan
    first_token_s: float = math.nan
    finish_s: float = math.nan
    preemptions: int = 0
    discarded_tokens: int = 0  # computed, then lost to preemption

    @property
    def known(self) -> int:
        return self.prompt_tokens + self.generated

    @property
    def final_kv_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens - 1


@dataclass(eq=False)
class Replica:
    """One engine: its queue, its batch, its KV blocks and the iteration in flight, if any."""

    engine: Engine
    cost: Any
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    finished: list[Request] = field(default_factory=list)
    num_routed: int = 0
    free_blocks: int = 0
    in_flight: Iteration | None = None
    log: list[Iteration] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free_blocks = self.engine.num_kv_blocks

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.engine.block_size)

    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def start_iteration(self, now_s: float) -> None:
        """Schedule a batch and put it in flight."""
        budget, preempted = self.schedule_running(self.engine.max_num_batched_tokens)
        if not preempted:
            self.admit_waiting(budget, now_s)

        chunks = [(r.tokens_in_flight, r.computed) for r in self.running if not r.decoding]
        decodes = [r for r in self.running if r.decoding]
        sampled = sum(r.computed + r.tokens_in_flight == r.known for r in self.running)
        kv_tokens = sum(r.computed for r in decodes)
        tokens = sum(r.tokens_in_flight for r in self.running)
        duration_s = iteration_s(self.cost, chunks, len(decodes), kv_tokens, sampled)
        assert duration_s >= 0, f"time runs backwards: an iteration of {duration_s} s"
        used = self.engine.num_kv_blocks - self.free_blocks
        self.in_flight = Iteration(
            now_s, now_s + duration_s, tokens, sampled, chunks, len(decodes), kv_tokens, used
        )
        self.check_batch()

    def schedule_running(self, budget: int) -> tuple[int, bool]:
        """Step 1: serve the running requests; the budget left, and whether any was preempted."""
        preempted = False
        served = 0
        while served < len(self.running):
            request = self.running[served]
            tokens = min(request.known - request.computed, budget)
            lacking = self.blocks_for(request.computed + tokens) - request.blocks
            while self.free_blocks < lacking:
                last = self.running[-1]
                self.preempt_last()
                preempted = True
                if last is request:
                    return budget, preempted
            self.give(request, tokens, lacking)
            budget -= tokens
            served += 1
        return budget, preempted

    def preempt_last(self) -> None:
        request = self.running.pop()
        assert request.tokens_in_flight == 0, "a request already served in this iteration is preempted"
        self.free_blocks += request.blocks
        request.blocks = 0
        request.discarded_tokens += request.computed
        request.computed = 0
        request.decoding = False
        request.preemptions += 1
        self.waiting.insert(0, request)

    def admit_waiting(self, budget: int, now_s: float) -> None:
        """Step 2: admit requests from the front of the queue while the limits allow."""
        while self.waiting and budget > 0 and len(self.running) < self.engine.max_num_seqs:
            request = self.waiting[0]
            tokens = min(request.known, budget)
            blocks = self.blocks_for(tokens)
            if self.free_blocks < blocks:
                return
            self.running.append(self.waiting.pop(0))
            self.give(request, tokens, blocks)
            budget -= tokens
            if math.isnan(request.scheduled_s):
                request.scheduled_s = now_s

    def give(self, request: Request, tokens: int, blocks: int) -> None:
        assert tokens >= 1, "a running request was given no token"
        request.tokens_in_flight = tokens
        request.blocks += blocks
        self.free_blocks -= blocks

    def end_iteration(self) -> None:
        """Complete the iteration in flight: computed tokens, sampled tokens, finished requests."""
        assert self.in_flight is not None
        now_s = self.in_flight.end_s
        for request in list(self.running):
            request.computed += request.tokens_in_flight
            request.tokens_in_flight = 0
            if request.computed == request.known:
                request.generated += 1
                request.decoding = True
                if request.generated == 1:
                    request.first_token_s = now_s
                if request.generated == request.output_tokens:
                    request.finish_s = now_s
                    self.running.remove(request)
                    self.finished.append(request)
                    self.free_blocks += request.blocks
                    request.blocks = 0
        self.log.append(self.in_flight)
        self.in_flight = None
        self.check_between_iterations()

    def view(self, now_s: float) -> list[float]:
        """The row of "What a router sees", in its order of columns."""
        present = self.running + self.waiting
        queued_prefill = sum(r.known for r in self.waiting)
        queued_prefill += sum(
            r.known - r.computed - r.tokens_in_flight for r in self.running if not r.decoding
        )
        predicted_remaining = sum(r.predicted_output_tokens - r.generated for r in present)
        released = sum(r.final_kv_tokens for r in self.finished)
        return [
            1,
            len(self.running),
            len(self.waiting),
            queued_prefill,
            sum(r.known for r in present),
            sum(r.computed for r in self.running if r.decoding),
            sum(r.blocks for r in self.running),
            self.engine.num_kv_blocks,
            self.in_flight.end_s - now_s if self.in_flight else 0.0,
            max(0.0, predicted_remaining),
            released / len(self.log) if self.log else 0.0,
        ]

    def check_batch(self) -> None:
        """Invariants of the batch in flight."""
        assert self.running, "an iteration without a request"
        assert len(self.running) <= self.engine.max_num_seqs, "more requests than max_num_seqs"
        tokens = sum(r.tokens_in_flight for r in self.running)
        assert tokens <= self.engine.max_num_batched_tokens, "an iteration over its token budget"
        for request in self.running:
            held = self.blocks_for(request.computed + request.tokens_in_flight)
            assert request.blocks == held, f"holds {request.blocks} blocks, needs {held}"
            assert request.tokens_in_flight >= 1, "a running request was not scheduled"
        self.check_blocks()

    def check_between_iterations(self) -> None:
        """Invariants of the replica at the end of an iteration."""
        present = self.running + self.waiting
        assert len({id(r) for r in present}) == len(present), "a request is in two places"
        assert len(present) + len(self.finished) == self.num_routed, "a request was lost or made up"
        for request in self.running[:-1]:
            assert request.decoding, "a running request before the last is in its prefill"
        for request in self.running:
            held = self.blocks_for(request.computed)
            assert request.blocks == held, f"holds {request.blocks} blocks for {request.computed} tokens"
            assert not request.decoding or request.computed == request.known - 1, "a token was lost"
        for request in self.waiting:
            assert request.computed == 0, "a waiting request has computed tokens"
        self.check_blocks()

    def check_blocks(self) -> None:
        """Blocks counted from scratch agree with the running count and never exceed the total."""
        held = sum(r.blocks for r in self.running)
        assert all(r.blocks == 0 for r in self.waiting), "a waiting request holds blocks"
        assert held == self.engine.num_kv_blocks - self.free_blocks, "blocks were lost or made up"
        assert 0 <= held <= self.engine.num_kv_blocks, f"{held} of {self.engine.num_kv_blocks} blocks held"

    def check_empty(self) -> None:
        """Invariants after the last request: KV is empty, and every token is accounted for."""
        assert not self.running and not self.waiting, "a request never finished"
        assert self.free_blocks == self.engine.num_kv_blocks, "blocks are held after the last request"
        for request in self.finished:
            assert request.computed == request.final_kv_tokens, "a token was lost or made up"
            times = [request.arrival_s, request.scheduled_s, request.first_token_s, request.finish_s]
            assert times == sorted(times), f"time runs backwards: {times}"
        computed = sum(r.final_kv_tokens + r.discarded_tokens for r in self.finished)
        assert sum(i.tokens for i in self.log) == computed, "a computed token was lost or made up"
        sampled = sum(r.output_tokens for r in self.finished)
        assert sum(i.sampled for i in self.log) == sampled, "a sampled token was lost or made up"


def simulate(
    arrival_s: Sequence[float],
    prompt_tokens: Sequence[int],
    output_tokens: Sequence[int],
    choose: Choose,
    *,
    num_replicas: int,
    engine: Engine,
    cost: Any,
    predicted_output_tokens: Sequence[float] | None = None,
) -> Result:
    """Serve a workload to its end, asserting the invariants on the way.

    The first three arguments (and `predicted_output_tokens`) hold one entry per request, by time of
    arrival. `choose(replicas (R, 11), request (3,)) -> replica` is called at every arrival; `cost` is
    any object with the fields of `IterationCost`. Raises `InputError` for a workload or a choice that
    the specification does not allow.
    """
    predicted = [0.0] * len(arrival_s) if predicted_output_tokens is None else predicted_output_tokens
    requests = [
        Request(float(arrival), int(prompt), int(output), float(guess))
        for arrival, prompt, output, guess in zip(
            arrival_s, prompt_tokens, output_tokens, predicted, strict=True
        )
    ]
    replicas = [Replica(engine, cost) for _ in range(num_replicas)]
    _check_input(requests, replicas, engine)

    views: list[NDArray[np.float64]] = []
    descriptions: list[NDArray[np.float64]] = []
    arrived = 0
    now_s = -math.inf
    while True:
        upcoming_s = [r.in_flight.end_s for r in replicas if r.in_flight]
        if arrived < len(requests):
            upcoming_s.append(requests[arrived].arrival_s)
        if not upcoming_s:
            break
        assert min(upcoming_s) >= now_s, "time runs backwards"
        now_s = min(upcoming_s)

        # 1. Iterations that end now complete.
        for replica in replicas:
            if replica.in_flight and replica.in_flight.end_s == now_s:
                replica.end_iteration()

        # 2. Requests that arrive now are routed, each seeing the effect of those before it.
        while arrived < len(requests) and requests[arrived].arrival_s == now_s:
            request = requests[arrived]
            gap_s = now_s - requests[arrived - 1].arrival_s if arrived else 0.0
            view = np.array([replica.view(now_s) for replica in replicas], dtype=np.float64)
            about = np.array(
                [request.prompt_tokens, request.predicted_output_tokens, gap_s], dtype=np.float64
            )
            views.append(view)
            descriptions.append(about)
            chosen = int(choose(view.copy(), about.copy()))
            if not 0 <= chosen < num_replicas:
                raise InputError(f"choose: replica {chosen} for request {arrived}, not below {num_replicas}")
            request.replica = chosen
            replicas[chosen].waiting.append(request)
            replicas[chosen].num_routed += 1
            arrived += 1

        # 3. Iterations that start now start.
        for replica in replicas:
            if not replica.in_flight and replica.has_work():
                replica.start_iteration(now_s)

    for replica in replicas:
        replica.check_empty()
    return Result(
        replica=np.array([r.replica for r in requests], dtype=np.int64),
        scheduled_s=np.array([r.scheduled_s for r in requests]),
        first_token_s=np.array([r.first_token_s for r in requests]),
        finish_s=np.array([r.finish_s for r in requests]),
        preemptions=np.array([r.preemptions for r in requests], dtype=np.int64),
        views=views,
        requests=descriptions,
        iterations=[replica.log for replica in replicas],
    )


def _check_input(requests: list[Request], replicas: list[Replica], engine: Engine) -> None:
    if not replicas:
        raise InputError("num_replicas: 0, at least 1 is needed")
    if not 1 <= engine.max_num_seqs <= engine.max_num_batched_tokens:
        raise InputError(f"max_num_seqs: {engine.max_num_seqs}, not in 1..{engine.max_num_batched_tokens}")
    before_s = -math.inf
    for i, request in enumerate(requests):
        if not before_s <= request.arrival_s < math.inf:  # nor nan
            raise InputError(
                f"request {i}: arrival_s {request.arrival_s}, must be finite and not before {before_s}"
            )
        before_s = request.arrival_s
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise InputError(f"request {i}: prompt and output must have at least 1 token")
        needed = replicas[0].blocks_for(request.final_kv_tokens)
        if needed > engine.num_kv_blocks:
            raise InputError(f"request {i}: needs {needed} KV blocks of {engine.num_kv_blocks}")
