"""`Router`: what every router adapter calls. Policies may fail and fleets change; no request is lost.

The adapter says what comes, what a replica reports and what comes back; it is told where to send a
request. The policy decides if it is in time and what it says can be done; otherwise the fallback does, and
it is counted why.
"""

import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from servegym.agents.serving.contracts import ILLEGAL, RouterPolicy
from servegym.agents.serving.deadline import limit
from servegym.agents.serving.routing.fleet_view import (
    AVAILABLE,
    PREFIX_HIT_TOKENS,
    UNSEEN_REQUESTS,
    WAITING,
    FleetView,
)
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import LARGEST, RoutedRequest, believable

LATE, RAISED, NOT_A_NUMBER, ILLEGAL_CHOICE, STALE = "late", "raised", "not_a_number", "illegal", "stale"
_LOG = logging.getLogger("servegym.router")

REASONS = (LATE, RAISED, NOT_A_NUMBER, ILLEGAL_CHOICE, STALE)
"""Why a fallback decides: the policy took
too long, raised, gave scores that are no numbers or of another shape, liked best what must not be chosen,
or would have had no fresh report to go by."""


class NoReplicaError(Exception):
    """No replica is available for a request."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes.

    policy: whose choice it is. fallback: one of REASONS, or empty. shadow: what the policy in the shadow
    would have chosen, or empty. decision_s: seconds on the wall. scores: float32 (R,), of the replicas of
    these names, ILLEGAL where not available. ages_s: float64 (R,), of the replicas' reports that it was made
    from, inf for none.
    """

    request_id: str
    replica: str
    policy: str
    fallback: str
    shadow: str
    decision_s: float
    names: Sequence[str]
    scores: np.ndarray
    ages_s: np.ndarray

    @property
    def ranked(self) -> tuple[str, ...]:
        """The names of all replicas that are available, best first."""
        order = np.argsort(-self.scores, kind="stable").tolist()
        return tuple(self.names[i] for i in order if self.scores[i] > ILLEGAL)


class Observer(Protocol):
    """Is told of decisions and what became of them: metrics, logs."""

    def decided(
        self, decision: Decision, request: RoutedRequest, features: np.ndarray, replicas: np.ndarray
    ) -> None:
        """A request was routed; features float32 (4,), replicas (R, 15): valid during this call only."""

    def refused(self, request: RoutedRequest) -> None:
        """No replica was available."""

    def ended(self, request_id: str, output_tokens: int, ttft_s: float, latency_s: float, ok: bool) -> None:
        """A request is over; output_tokens is -1, ttft_s NaN, where nobody has told of them."""


class _Timed:
    """When a request was routed, and what has come back of it; tokens: -1 until somebody tells of some."""

    def __init__(self, routed_s: float) -> None:
        self.routed_s, self.first_s, self.tokens = routed_s, float("nan"), -1


class Router:
    """Routes requests over `fleet` by `policy`; thread-safe.

    fallback: decides where the policy does not; also where `share` leaves a request to it, and always with
    `shadow`, where the policy is asked but does not act. share: of sessions (of requests without one) that
    the policy decides about, 0 to 1. deadline_s: how long it may think; None: as long as it likes.
    needs_reports: whether a fleet without one fresh report is left to the fallback. clock: seconds on the
    wall. time_scale: how many of these a second of the fleet lasts: `self.clock` says the fleet's seconds.
    """

    def __init__(
        self,
        policy: RouterPolicy,
        fleet: FleetView,
        *,
        fallback: RouterPolicy | None = None,
        share: float = 1.0,
        shadow: bool = False,
        deadline_s: float | None = 0.005,
        needs_reports: bool = False,
        observers: Iterable[Observer] = (),
        clock: Callable[[], float] = time.monotonic,
        time_scale: float = 1.0,
    ) -> None:
        self.policy, self.fleet, self.time_scale = policy, fleet, time_scale
        self.clock = clock if time_scale == 1.0 else lambda: clock() / time_scale
        self.fallback = LeastLoaded() if fallback is None else fallback
        self.share, self.shadow, self.needs_reports = share, shadow, needs_reports
        self.observers = list(observers)
        self._bounded = getattr(policy, "bounded", False)
        self._limit = limit(deadline_s, policy)
        self._under_way: dict[str, _Timed] = {}
        self._lock = threading.Lock()
        self._noted: set[str] = set()

    def route(
        self, request: RoutedRequest, candidates: Iterable[str] | None = None, *, send: bool = True
    ) -> Decision:
        """Where to send a request; with `send` it counts as sent there, else `sent` must say so.

        candidates: names it may go to, others are not there for it; None: all. NoReplicaError where none
        of them is available.
        """
        with self._lock:
            began_s = time.perf_counter()
            now_s = self.clock()
            rows = self._rows(now_s, request.prefix_hashes, candidates)
            if not rows[:, AVAILABLE].any():
                self._tell("refused", request)
                raise NoReplicaError("no replica is available")
            prompt_tokens = believable(request.prompt_tokens)
            if request.prefix_hashes:
                # Hits are reckoned from bytes, a prompt may have been counted. Its last token is never one.
                hit_tokens = rows[:, PREFIX_HIT_TOKENS]
                np.minimum(hit_tokens, max(0.0, prompt_tokens - 1.0), out=hit_tokens)
            features = np.array(
                [
                    prompt_tokens,
                    believable(request.predicted_output_tokens),
                    self.fleet.gap_s(now_s),
                    request.priority if abs(request.priority) <= LARGEST else 0.0,
                ],
                np.float32,
            )
            decision = self._decide(request, features, rows, now_s, began_s)
            if send:
                self._send(request, decision.replica, now_s)
            self._tell("decided", decision, request, features, rows)
            return decision

    def least_waiting(self, candidates: Iterable[str] | None = None) -> float:
        """Requests that wait, or are on their way, where fewest do of the replicas available; 0 with none."""
        with self._lock:
            rows = self._rows(self.clock(), (), candidates)
            rows = rows[rows[:, AVAILABLE] > 0]
            return float((rows[:, WAITING] + rows[:, UNSEEN_REQUESTS]).min()) if len(rows) else 0.0

    def sent(self, request: RoutedRequest, replica: str) -> None:
        """A request has gone to a replica, by `route(..., send=False)` or anybody else's choice.

        InputError for a replica that is not there.
        """
        with self._lock:
            self._send(request, replica, self.clock())

    def began(self, request_id: str) -> None:
        """An answer has begun whose tokens are not seen: the request runs, but nothing is known of them."""
        with self._lock:
            self.fleet.tokens(request_id)

    def tokens(self, request_id: str, count: int = 1, *, just_now: bool = True) -> None:
        """So many tokens of an answer have come back; `just_now` False: nobody knows when."""
        with self._lock:
            timed = self._under_way.get(request_id)
            if timed is not None and count > 0:
                if timed.tokens < 0:
                    timed.tokens = 0
                    if just_now:
                        timed.first_s = self.clock()
                timed.tokens += count
            self.fleet.tokens(request_id, count)

    def ended(self, request_id: str, ok: bool = True) -> None:
        """A request is over; `ok` False: it failed or was given up. Nothing for one that is not under way."""
        with self._lock:
            timed = self._under_way.pop(request_id, None)
            self.fleet.ended(request_id)
            if timed is not None:
                ttft_s, latency_s = timed.first_s - timed.routed_s, self.clock() - timed.routed_s
                self._tell("ended", request_id, timed.tokens, ttft_s, latency_s, ok)

    def report(self, replica: str, numbers: Mapping[str, float], at_s: float | None = None) -> None:
        """What a replica says of itself, true at `at_s` of `self.clock`, by default now.

        InputError as of FleetView.report; then the last report stays.
        """
        with self._lock:
            self.fleet.report(replica, numbers, self.clock() if at_s is None else at_s)

    def set_available(self, replica: str, available: bool) -> None:
        """Whether a replica may be chosen. InputError for one that is not there."""
        with self._lock:
            self.fleet.set_available(replica, available)

    def set_replicas(self, replicas: Iterable[str]) -> None:
        """The fleet now is these; those that stay keep what is known of them. InputError for none, twins."""
        with self._lock:
            self.fleet.set_replicas(replicas)

    def _rows(
        self, now_s: float, prefix_hashes: tuple[int, ...], candidates: Iterable[str] | None
    ) -> np.ndarray:
        rows = self.fleet.rows(now_s, prefix_hashes)
        if candidates is not None:
            allowed = [self.fleet.index[name] for name in candidates if name in self.fleet.index]
            barred = np.ones(len(rows), bool)
            barred[allowed] = False
            rows[barred, AVAILABLE] = 0.0
        return rows

    def _send(self, request: RoutedRequest, replica: str, now_s: float) -> None:
        self.fleet.sent(request, replica, now_s)
        before = self._under_way.get(
            request.request_id
        )  # sent anew: who waits has waited since the first time
        self._under_way[request.request_id] = _Timed(now_s if before is None else before.routed_s)

    def _tell(self, what: str, *of: object) -> None:
        """Tells the observers. One that fails is logged the first time: requests do not depend on it."""
        for observer in self.observers:
            try:
                getattr(observer, what)(*of)
            except Exception as error:  # a disk may be full
                name = type(observer).__name__
                if name not in self._noted:
                    self._noted.add(name)
                    _LOG.warning("%s failed: %s: %s; said once", name, type(error).__name__, error)

    def _decide(
        self, request: RoutedRequest, features: np.ndarray, rows: np.ndarray, now_s: float, began_s: float
    ) -> Decision:
        acts = not self.shadow and (self.share >= 1.0 or _in_share(request, self.share))
        policy, reason, scores, shadow = self.fallback.name, "", None, ""
        if acts or self.shadow:
            scores, reason = self._asked(request, features, rows, now_s)
            if scores is not None:
                if acts:
                    policy = self.policy.name
                else:
                    shadow, scores = self.fleet.names[int(scores.argmax())], None
        if scores is None:
            scores = self.fallback.scores(features, rows, request.session)
        scores = np.where(rows[:, AVAILABLE] > 0, scores, np.float32(ILLEGAL))
        fleet, replica = self.fleet, self.fleet.names[int(scores.argmax())]
        took_s = time.perf_counter() - began_s
        return Decision(
            request.request_id, replica, policy, reason, shadow, took_s, fleet.names, scores, fleet.ages_s
        )

    def _asked(
        self, request: RoutedRequest, features: np.ndarray, rows: np.ndarray, now_s: float
    ) -> tuple[np.ndarray | None, str]:
        """What the policy says, or None and why it cannot be done."""
        if self.needs_reports and not (self.fleet.is_fresh(now_s) & (rows[:, AVAILABLE] > 0)).any():
            return None, self._noted_as(STALE, f"no report of the last {self.fleet.report_max_age_s:g} s")
        try:
            mine, seen = features, rows
            if not self._bounded:
                # Anybody's code, maybe late: it must neither change these rows nor see the next request's.
                mine, seen = features.copy(), rows.copy()
            if self._limit is None:
                scores = self.policy.scores(mine, seen, request.session)
            else:
                scores = self._limit.run(lambda: self.policy.scores(mine, seen, request.session))
        except TimeoutError:
            return None, self._noted_as(LATE, "its deadline has passed")
        except Exception as error:  # a policy may be anybody's code
            return None, self._noted_as(RAISED, f"{type(error).__name__}: {error}")
        if (
            not isinstance(scores, np.ndarray)
            or scores.shape != (len(rows),)
            or not np.isfinite(scores).all()
        ):
            return None, self._noted_as(NOT_A_NUMBER, f"scores must be {len(rows)} finite numbers")
        best = int(scores.argmax())
        if rows[best, AVAILABLE] == 0 or scores[best] <= ILLEGAL:
            return None, self._noted_as(ILLEGAL_CHOICE, f"{self.fleet.names[best]} is not available")
        return scores, ""

    def _noted_as(self, reason: str, what: str) -> str:
        """The reason, logged the first time: counting them is for observers."""
        if reason not in self._noted:
            self._noted.add(reason)
            _LOG.warning(
                "policy %s: %s (%s): %s decides; said once",
                self.policy.name,
                reason,
                what,
                self.fallback.name,
            )
        return reason


def _in_share(request: RoutedRequest, share: float) -> bool:
    """The same for all requests of a session, or for one that is tried again."""
    key = request.request_id if request.session < 0 else repr(request.session)
    return zlib.crc32(key.encode()) < share * 2**32
