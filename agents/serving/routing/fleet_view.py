"""The replicas of a fleet as a router sees them: the rows that policies were trained on, from real systems.

A row comes from what a replica reports of itself, with those requests counted as unseen that were sent to it
since. What it does not report, and all where there is no fresh report, comes from the router's own books:
what it sent, and what came back.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from servegym.agents.serving.artifact.schema import REPLICA_FEATURES
from servegym.agents.serving.routing.prefix_hashes import BLOCK_TOKENS
from servegym.agents.serving.routing.prefix_index import PrefixIndex
from servegym.agents.serving.routing.requests import LARGEST, RoutedRequest, believable
from servegym.costmodels.errors import InputError

(
    AVAILABLE,
    RUNNING,
    WAITING,
    QUEUED_PREFILL_TOKENS,
    OUTSTANDING_TOKENS,
    DECODE_CONTEXT_TOKENS,
    KV_USED_BLOCKS,
    KV_TOTAL_BLOCKS,
    ITERATION_LEFT_S,
    PREDICTED_REMAINING_TOKENS,
    KV_RELEASED_PER_ITERATION,
    PREFIX_HIT_TOKENS,
    SPEED,
    UNSEEN_REQUESTS,
    UNSEEN_PREFILL_TOKENS,
) = range(len(REPLICA_FEATURES))

NOT_REPORTED = ("available", "prefix_hit_tokens", "unseen_requests", "unseen_prefill_tokens")
"""Features that only the router knows."""

REPORT_COLUMNS = {name: i for i, name in enumerate(REPLICA_FEATURES) if name not in NOT_REPORTED}
"""What a replica may report, by name, with its column in a row."""


@dataclass
class _UnderWay:
    """A request between being sent and its end; generated: 0 until its first token has come back."""

    replica: int
    prompt_tokens: float
    predicted_tokens: float
    generated: int = 0


class FleetView:
    """Rows float32 (R, 15) of REPLICA_FEATURES; a replica keeps its row as long as it is there.

    replicas: their names (addresses). kv_blocks, speed: what is true of a replica until it reports otherwise.
    block_size: tokens of a KV block; prefix_block_tokens: of a block that prefixes are hashed by.
    report_max_age_s: reports older than this are not used. dispatch_latency_s: from when a request is sent
    until its replica may say that it is there. Times are of whatever clock the caller has, in seconds.

    ages_s: float64 (R,), how old the reports were that the last rows came from; inf where none was used.

    What a fresh report says is as it was at its instant, nothing of it is moved on to now: so do policies see
    the state of a fleet in training, live or stale.
    """

    def __init__(
        self,
        replicas: Iterable[str],
        *,
        block_size: int = 16,
        kv_blocks: int = 30_000,
        speed: float = 1.0,
        report_max_age_s: float = 1.0,
        dispatch_latency_s: float = 0.0,
        prefix_block_tokens: int = BLOCK_TOKENS,
    ) -> None:
        self.names = list(replicas)
        if len(set(self.names)) != len(self.names) or not self.names:
            raise InputError(
                f"replicas = {', '.join(self.names)}: must be names, one at least and none twice"
            )
        self.index = {name: i for i, name in enumerate(self.names)}
        self.block_size, self.report_max_age_s = block_size, report_max_age_s
        self.dispatch_latency_s = dispatch_latency_s
        size = (len(self.names), len(REPLICA_FEATURES))
        self._own = np.zeros(size, np.float32)
        self._own[:, AVAILABLE], self._own[:, KV_TOTAL_BLOCKS], self._own[:, SPEED] = 1.0, kv_blocks, speed
        self._reported = np.zeros(size, np.float32)
        self._reported[:] = self._own
        self._reported_s = np.full(len(self.names), -np.inf)
        self._is_told = np.zeros(size, bool)
        self._rows = np.zeros(size, np.float32)
        self.ages_s = np.full(len(self.names), np.inf)
        self._unseen: list[deque[tuple[float, float]]] = [deque() for _ in self.names]
        self._under_way: dict[str, _UnderWay] = {}
        max_blocks = max(1, kv_blocks * block_size // prefix_block_tokens)
        self._prefixes = PrefixIndex(len(self.names), prefix_block_tokens, max_blocks)
        self._last_arrival_s = -np.inf
        self._defaults = self._own[0].copy()

    def set_replicas(self, replicas: Iterable[str]) -> None:
        """The fleet now is these; those that stay keep what is known of them, and their requests.

        InputError as when it was made; then nothing has changed.
        """
        names = list(replicas)
        if len(set(names)) != len(names) or not names:
            raise InputError(f"replicas = {', '.join(names)}: must be names, one at least and none twice")
        if names == self.names:
            return
        old = {name: i for i, name in enumerate(self.names)}
        of = [old.get(name) for name in names]
        own, reported = self._own, self._reported
        self._own = np.stack([self._defaults if i is None else own[i] for i in of])
        self._reported = np.stack([self._defaults if i is None else reported[i] for i in of])
        self._reported_s = np.array([-np.inf if i is None else self._reported_s[i] for i in of])
        untold = np.zeros(len(REPLICA_FEATURES), bool)
        self._is_told = np.stack([untold if i is None else self._is_told[i] for i in of])
        self._unseen = [deque() if i is None else self._unseen[i] for i in of]
        self._prefixes = self._prefixes.moved(of)
        self._rows = np.zeros_like(self._own)
        to = {i: new for new, i in enumerate(of) if i is not None}
        self._under_way = {key: each for key, each in self._under_way.items() if each.replica in to}
        for each in self._under_way.values():
            each.replica = to[each.replica]
        self.names, self.index = names, {name: i for i, name in enumerate(names)}

    @property
    def num_under_way(self) -> int:
        """Requests sent that have not ended."""
        return len(self._under_way)

    def rows(self, now_s: float, prefix_hashes: tuple[int, ...] = ()) -> np.ndarray:
        """The rows at an instant, for a request of these prefixes; valid until the next call."""
        rows = self._rows
        ages_s = now_s - self._reported_s
        np.copyto(rows, self._own)
        fresh = ages_s <= self.report_max_age_s
        if fresh.any():
            np.copyto(rows, self._reported, where=self._is_told & fresh[:, None])
        ages_s[~fresh] = np.inf
        self.ages_s = ages_s
        remaining = rows[:, PREDICTED_REMAINING_TOKENS]
        np.maximum(remaining, 0.0, out=remaining)
        if prefix_hashes:
            self._prefixes.write_hits(prefix_hashes, rows[:, PREFIX_HIT_TOKENS])
        return rows

    def is_fresh(self, now_s: float) -> np.ndarray:
        """bool (R,): whose last report may be used."""
        fresh: np.ndarray = now_s - self._reported_s <= self.report_max_age_s
        return fresh

    def gap_s(self, now_s: float) -> float:
        """Seconds since the last request came, 0 for the first; to be asked once a request."""
        gap = now_s - self._last_arrival_s
        self._last_arrival_s = now_s
        return gap if np.isfinite(gap) else 0.0

    def report(self, replica: str, numbers: Mapping[str, float], at_s: float) -> None:
        """What a replica says of itself, true at `at_s`; names not in REPORT_COLUMNS are ignored.

        What it does not say is what the router reckons. Where it says how many wait, requests sent since are
        unseen; so are their prompts where it says `queued_prefill_tokens`.

        InputError for a replica that is not here, or for a number that is none: the last report then stays.
        """
        i = self._number(replica)
        told = {
            REPORT_COLUMNS[name]: float(value) for name, value in numbers.items() if name in REPORT_COLUMNS
        }
        for column, value in told.items():
            if not 0.0 <= value <= LARGEST:
                raise InputError(
                    f"{REPLICA_FEATURES[column]} = {value} of {replica}: must be from 0 to {LARGEST:g}"
                )
        row = self._reported[i]
        is_told = self._is_told[i]
        is_told[:] = False
        for column, value in told.items():
            row[column] = value
            is_told[column] = True
        # The router's own books have these in the queue.
        is_told[UNSEEN_REQUESTS] = is_told[WAITING]
        is_told[UNSEEN_PREFILL_TOKENS] = is_told[QUEUED_PREFILL_TOKENS]
        self._reported_s[i] = at_s
        self._forget_unseen(i, at_s)

    def set_available(self, replica: str, available: bool) -> None:
        """Whether a replica may be chosen. One that goes loses its cache and its reports."""
        i = self._number(replica)
        self._own[i, AVAILABLE] = float(available)
        if not available:
            self._reported_s[i] = -np.inf
            self._prefixes.forget(i)

    def sent(self, request: RoutedRequest, replica: str, now_s: float) -> None:
        """A request goes to a replica; one that is under way already has been sent anew."""
        self.ended(request.request_id)
        i = self._number(replica)
        prompt_tokens = believable(request.prompt_tokens)
        predicted_tokens = believable(request.predicted_output_tokens)
        self._under_way[request.request_id] = _UnderWay(i, prompt_tokens, predicted_tokens)
        own, row = self._own[i], self._reported[i]
        own[WAITING] += 1.0
        own[QUEUED_PREFILL_TOKENS] += prompt_tokens
        own[OUTSTANDING_TOKENS] += prompt_tokens
        own[PREDICTED_REMAINING_TOKENS] += predicted_tokens
        row[UNSEEN_REQUESTS] += 1.0
        row[UNSEEN_PREFILL_TOKENS] += prompt_tokens
        self._unseen[i].append((now_s, prompt_tokens))
        self._forget_unseen(i, now_s - self.report_max_age_s)  # no report as old as these is used
        if request.prefix_hashes:
            self._prefixes.add(i, request.prefix_hashes)

    def tokens(self, request_id: str, count: int = 1) -> None:
        """So many tokens of a request's answer have come back; nothing for one that is not under way."""
        request = self._under_way.get(request_id)
        if request is None or count < 1:
            return
        own = self._own[request.replica]
        held = self._blocks(request)
        if request.generated == 0:
            own[WAITING] -= 1.0
            own[RUNNING] += 1.0
            own[QUEUED_PREFILL_TOKENS] -= request.prompt_tokens
            own[DECODE_CONTEXT_TOKENS] += request.prompt_tokens
            own[DECODE_CONTEXT_TOKENS] -= 1.0  # the newest token has no KV entry yet
        request.generated += count
        if request.predicted_tokens > 0:  # beyond its prediction it counts against the sum, as in the gym
            own[PREDICTED_REMAINING_TOKENS] -= count
        own[OUTSTANDING_TOKENS] += count
        own[DECODE_CONTEXT_TOKENS] += count
        own[KV_USED_BLOCKS] += self._blocks(request) - held

    def ended(self, request_id: str) -> None:
        """A request is over, in whatever way; nothing for one that is not under way."""
        request = self._under_way.pop(request_id, None)
        if request is None:
            return
        own = self._own[request.replica]
        own[OUTSTANDING_TOKENS] -= request.prompt_tokens + request.generated
        if request.predicted_tokens > 0:
            own[PREDICTED_REMAINING_TOKENS] -= request.predicted_tokens - request.generated
        if request.generated == 0:
            own[WAITING] -= 1.0
            own[QUEUED_PREFILL_TOKENS] -= request.prompt_tokens
        else:
            own[RUNNING] -= 1.0
            own[DECODE_CONTEXT_TOKENS] -= request.prompt_tokens + request.generated - 1
            own[KV_USED_BLOCKS] -= self._blocks(request)
        if own[WAITING] + own[RUNNING] == 0:  # what rounding has left
            own[QUEUED_PREFILL_TOKENS : KV_USED_BLOCKS + 1] = own[PREDICTED_REMAINING_TOKENS] = 0.0

    def _forget_unseen(self, replica: int, seen_s: float) -> None:
        """Those that were there at an instant are in what the replica says of it."""
        unseen, row = self._unseen[replica], self._reported[replica]
        while unseen and unseen[0][0] + self.dispatch_latency_s <= seen_s:
            row[UNSEEN_PREFILL_TOKENS] -= unseen.popleft()[1]
            row[UNSEEN_REQUESTS] -= 1.0
        if not unseen:
            row[UNSEEN_PREFILL_TOKENS] = row[UNSEEN_REQUESTS] = 0.0

    def _blocks(self, request: _UnderWay) -> float:
        if request.generated == 0:
            return 0.0
        return -(-(request.prompt_tokens + request.generated - 1) // self.block_size)

    def _number(self, replica: str) -> int:
        if replica not in self.index:
            raise InputError(f"replica = {replica}: must be one of {', '.join(self.names)}")
        return self.index[replica]
