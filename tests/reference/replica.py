"""One replica: its queues, its KV blocks, its batch, and what an iteration does to them."""

import math
from collections.abc import Callable

from servegym.costmodels.errors import InputError
from tests.reference.blocks import Block, BlockPool
from tests.reference.cost import iteration_s
from tests.reference.log import Entry, Iteration, Preemption
from tests.reference.member import Member
from tests.reference.ranker import Ranker, Ranking
from tests.reference.request import Request
from tests.reference.schedulers import SCHEDULE
from tests.reference.settings import ReplicaSpec
from tests.reference.view import Glance, glance_at


class Replica(Member):
    """An engine with requests. The scheduler (`schedulers/`) decides; the methods here carry it out."""

    def __init__(
        self,
        number: int,
        spec: ReplicaSpec,
        image_s: Callable[[Request], float],
        ranking: Ranking | None = None,
    ) -> None:
        super().__init__(number, spec)
        assert spec.engine is not None
        self.engine = spec.engine
        self.cost = spec.cost
        self.image_s = image_s  # encoding done by this replica, at the first admission
        self.pool = BlockPool(self.engine.num_kv_blocks, self.engine.prefix_caching)
        self.running: list[Request] = []  # in order of admission
        self.swapped: list[Request] = []
        self.batch: list[Request] = []  # of the iteration in flight, in the order scheduled
        self.in_flight: Iteration | None = None
        self.finished: list[Request] = []
        self.log: list[Iteration] = []
        self.preemption_log: list[Preemption] = []
        self.now_s = -math.inf  # start of the iteration being scheduled
        self.encode_s = 0.0  # what encoding and swapping add to it
        self.swap_s = 0.0
        self.reserved_seats = 0  # for requests that migrate here
        self.ranker = None if ranking is None else Ranker(ranking)
        self.roles_change = False
        self.reset_scheduler()

    def reset_scheduler(self) -> None:
        self.decodes_since_prefill = 0  # LightLLM: since the last attempt
        self.first_ratio = 0.7  # SGLang: what it promises of the output limits, falling with
        self.decodes_since_ratio = 0  # the decode iterations since this ratio was set
        self.last_batch: list[Request] = []  # of the last iteration that has ended, and how long it was
        self.last_iteration_s = 0.0
        if self.ranker:
            self.ranker.clear()

    def clear(self) -> None:
        """After a failure, or when it is started: as new. Its records stay."""
        self.waiting, self.running, self.swapped, self.batch, self.leaving = [], [], [], [], []
        self.in_flight = None
        self.reserved_seats = 0
        self.pool.clear()
        self.reset_scheduler()

    @property
    def ends_s(self) -> float:
        return self.in_flight.end_s if self.in_flight else math.inf

    def glance(self) -> Glance:
        return glance_at(self)

    def why_unfit(self, request: Request) -> str:
        """Why this engine can never serve the request, here up to its first token with the role `prefill`."""
        output, limit = request.output_tokens, request.max_output_tokens
        if self.role == "prefill" and not self.roles_change:
            output = limit = 1
        return self.engine.why_unfit(request.prompt_tokens, output, limit)

    # Queues.

    def enqueue(self, request: Request, now_s: float) -> None:
        """A request enters `waiting`, at its place in the order; with `fcfs` at the back."""
        order = self.engine.order
        if order == "priority":
            request.rank_key = request.priority  # by which it may be a victim where it migrates to
            request.queue_key = (request.priority, request.arrival_s, request.index)
        elif order == "rank":
            assert self.ranker
            request.rank_key = self.ranker.key_in_queue(self, request, now_s)
            request.queue_key = (request.rank_key, request.arrival_s, request.index)
        self.waiting.append(request)
        if order != "fcfs":
            self.waiting.sort(key=lambda r: r.queue_key)
        request.place = "waiting"
        request.replica = self.number
        self.woken = True

    def present(self) -> list[Request]:
        return self.running + self.waiting + self.swapped

    def take_out(self, request: Request) -> None:
        """The request is no longer here; its blocks are released apart from this."""
        for queue in (self.waiting, self.running, self.swapped):
            if request in queue:
                queue.remove(request)
        if self.ranker:
            self.ranker.gone.append(request)
        self.woken = True

    # What schedulers do.

    @property
    def free_blocks(self) -> int:
        return len(self.pool.free)

    @property
    def num_seats(self) -> int:
        return self.engine.max_num_seqs - len(self.running) - self.reserved_seats

    def lacking(self, request: Request, tokens: int) -> int:
        """Blocks that a request lacks to hold so many tokens in all."""
        return max(0, self.engine.blocks_for(tokens) - len(request.table))

    def output_limit(self, request: Request) -> int:
        """The client's limit `m`; a replica that only prefills samples one token."""
        if self.role == "prefill":
            return 1
        return self.engine.output_limit(request.prompt_tokens, request.max_output_tokens)

    def output_left(self, request: Request) -> int:
        """Tokens that the client's limit still allows: `m - generated`."""
        return self.output_limit(request) - request.generated

    def lookup(self, request: Request) -> list[Block]:
        """The blocks of `request` that are in the prefix cache; its last known token is not looked up."""
        if not self.engine.prefix_caching or request.brought:
            return []
        most = (request.known - 1) // self.engine.block_size
        return self.pool.lookup(request.contents(self.engine.block_size)[:most])

    def take_blocks(self, request: Request, tokens: int) -> None:
        """The request gets the blocks it lacks to hold so many tokens in all."""
        request.table += self.pool.take(self.lacking(request, tokens))

    def release(self, request: Request) -> None:
        self.pool.give_back(request.table)
        request.table = []
        self.woken = True

    def admit(self, request: Request, hits: list[Block] | None = None) -> None:
        """From `waiting` to the end of `running`, holding the hit blocks."""
        self.waiting.remove(request)
        self.running.append(request)
        request.place, request.holder = "running", self.number
        if not request.encoded:
            self.encode_s += self.image_s(request)
            request.encoded = True
        if hits:
            self.pool.hold(hits)
            request.table = list(hits)
            request.computed = request.admitted_hit_tokens = len(hits) * self.engine.block_size
            request.hit_tokens += request.computed
        if math.isnan(request.scheduled_s):
            request.scheduled_s = self.now_s
        if request.brought:
            request.decoding = True
            request.brought = False

    def serve(self, request: Request, tokens: int) -> None:
        """The request gets so many tokens in this iteration; the blocks they fill can be hit now."""
        assert tokens >= 1, "a request was served no token"
        request.tokens_in_flight = tokens
        self.batch.append(request)
        if self.pool.sharing:
            full = (request.computed + tokens) // self.engine.block_size
            self.pool.publish(request.table, request.contents(self.engine.block_size)[:full])

    def unserve(self, request: Request) -> int:
        """It is taken out of the batch; the tokens that it had been given."""
        self.batch.remove(request)
        tokens, request.tokens_in_flight = request.tokens_in_flight, 0
        return tokens

    def preempt(self, request: Request, to_back: bool = False) -> None:
        """Recompute: it loses its blocks and waits, with `fcfs` in front (or `to_back`)."""
        assert request not in self.batch, "a request already served in this iteration is preempted"
        self.note_preemption(request, "recompute")
        self.running.remove(request)
        self.release(request)
        if self.engine.restart_cuts_prompt and request.computed < request.known and not request.decoding:
            total = request.prompt_tokens + request.output_tokens
            request.prompt_tokens, request.generated = request.computed, 0
            request.output_tokens = total - request.computed
        request.lose_progress()
        self.enqueue(request, self.now_s)
        if self.engine.order == "fcfs" and not to_back:
            self.waiting.insert(0, self.waiting.pop())

    def host_has_room(self, request: Request) -> bool:
        used = sum(r.host_blocks for r in self.swapped)
        return used + len(request.table) <= self.engine.swap_blocks

    def swap_out(self, request: Request) -> None:
        """Its blocks go to the host; it keeps what it has computed."""
        self.note_preemption(request, "swap")
        self.swap_s += self.engine.swap_s_per_block * len(request.table)
        request.place, request.host_blocks = "swapped", len(request.table)
        self.running.remove(request)
        self.release(request)
        self.swapped.append(request)
        self.swapped.sort(key=lambda r: (r.arrival_s, r.index))

    def swap_in(self, request: Request) -> None:
        """To the end of `running`; its blocks are taken apart from this."""
        self.swap_s += self.engine.swap_s_per_block * request.host_blocks
        request.place, request.host_blocks = "running", 0
        self.swapped.remove(request)
        self.running.append(request)

    def note_preemption(self, request: Request, kind: str) -> None:
        request.preemptions += 1
        self.preemption_log.append(Preemption(self.now_s, self.number, request.index, len(self.log), kind))

    # Iterations.

    def start_iteration(self, now_s: float) -> None:
        """Schedule a batch, if there is one, and put it in flight."""
        self.now_s, self.encode_s, self.swap_s, self.batch, self.woken = now_s, 0.0, 0.0, [], False
        for request in self.present():
            request.admitted_hit_tokens = 0
        SCHEDULE[self.engine.scheduler](self)
        if not self.batch:
            self.woken = False  # also where it has preempted everybody: something else must happen first
            return
        entries = tuple(
            Entry(r.index, r.tokens_in_flight, r.computed, r.admitted_hit_tokens, not r.decoding)
            for r in self.batch
        )
        sampled = sum(r.computed + r.tokens_in_flight == r.known for r in self.batch)
        plan = Iteration(self.number, now_s, now_s, sampled, self.pool.used, entries)
        seconds = iteration_s(self.cost, plan.chunks, plan.num_decodes, plan.kv_tokens, sampled)
        if self.engine.swap_ahead_blocks:
            seconds = max(seconds + self.encode_s, self.swap_s)
        else:
            seconds += self.encode_s + self.swap_s
        if not seconds > 0:
            raise InputError(f"cost: an iteration of {seconds} s, must be longer than 0")
        self.in_flight = Iteration(self.number, now_s, now_s + seconds, sampled, self.pool.used, entries)

    def end_iteration(self) -> list[Request]:
        """Complete the iteration in flight: computed and sampled tokens. Gives the requests it served."""
        assert self.in_flight is not None
        for request in self.batch:
            request.computed += request.tokens_in_flight
            request.tokens_in_flight = 0
            if request.computed == request.known:
                self.sample(request, self.in_flight.end_s)
        self.log.append(self.in_flight)
        served = self.last_batch = self.batch
        self.last_iteration_s = self.in_flight.end_s - self.in_flight.start_s
        self.in_flight, self.batch, self.woken = None, [], True
        return served

    def sample(self, request: Request, now_s: float) -> None:
        request.generated += 1
        request.decoding = True
        if math.isnan(request.first_token_s):
            request.first_token_s = now_s
        if request.generated == request.output_tokens:
            request.finish_s = now_s
            request.place, request.outcome = "ended", "finished"
            self.running.remove(request)
            self.release(request)
            self.finished.append(request)
            if self.ranker:
                self.ranker.gone.append(request)
