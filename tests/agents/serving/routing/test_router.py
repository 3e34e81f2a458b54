"""A router that never loses a request, whatever its policy, its fleet and its callers do."""

import logging
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.agents.serving.contracts import ILLEGAL, UNKNOWN
from servegym.agents.serving.routing.fleet_view import (
    AVAILABLE,
    KV_USED_BLOCKS,
    PREFIX_HIT_TOKENS,
    RUNNING,
    FleetView,
)
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import REASONS, Decision, NoReplicaError, Router
from tests.conftest import examples

NAMES = ["a", "b", "c"]
NAN, INFINITE = float("nan"), float("inf")


class Mischief:
    """Does what it was told last: chooses well, or in one of many ways does not."""

    name = "mischief"

    def __init__(self, what: str = "well") -> None:
        self.what, self.asked, self.held = what, 0, threading.Event()

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> Any:
        self.asked += 1
        scores = np.where(replicas[:, AVAILABLE] > 0, -np.arange(len(replicas)), ILLEGAL).astype(np.float32)
        match self.what:
            case "raises":
                raise ZeroDivisionError
            case "nan":
                scores[-1] = NAN
            case "infinite":
                scores[0] = INFINITE
            case "short":
                return scores[:-1]
            case "list":
                return scores.tolist()
            case "nothing":
                return None
            case "unavailable":
                scores[replicas[:, AVAILABLE] == 0] = 1.0
            case "nobody":
                scores[:] = ILLEGAL
            case "overwrites":
                replicas[:], request[:] = -1.0, NAN
            case "hangs":
                self.held.wait(60)
        return scores


FAULTS = {
    "raises": "raised",
    "nan": "not_a_number",
    "infinite": "not_a_number",
    "short": "not_a_number",
    "list": "not_a_number",
    "nothing": "not_a_number",
    "nobody": "illegal",
}


class Watcher:
    """Remembers what observers are told."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.refused_ids: list[str] = []
        self.ended_ids: Counter[str] = Counter()
        self.tokens: dict[str, int] = {}

    def decided(
        self, decision: Decision, request: RoutedRequest, features: np.ndarray, replicas: np.ndarray
    ) -> None:
        assert request.request_id == decision.request_id
        assert features.shape == (4,) and replicas.shape == (len(decision.names), 15)
        self.decisions.append(decision)

    def refused(self, request: RoutedRequest) -> None:
        self.refused_ids.append(request.request_id)

    def ended(self, request_id: str, output_tokens: int, ttft_s: float, latency_s: float, ok: bool) -> None:
        assert np.isnan(ttft_s) == (output_tokens == -1) and latency_s >= 0
        self.ended_ids[request_id] += 1
        self.tokens[request_id] = max(0, output_tokens)


KINDS = ("well", "unavailable", *FAULTS)
PROMPTS = st.sampled_from([1.0, 100.0, 0.0, NAN, INFINITE, -3.0, 1e300])
EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("route"), st.sampled_from(KINDS), PROMPTS, st.lists(st.sampled_from("abcz"), max_size=3)
        ),
        st.tuples(st.sampled_from(["tokens", "ended", "failed", "again"]), st.integers(0, 20)),
        st.tuples(st.sampled_from(["gone", "back", "report"]), st.sampled_from("abcd")),
        st.tuples(st.just("fleet"), st.lists(st.sampled_from("abcd"), min_size=1, unique=True)),
    ),
    max_size=50,
)


@examples(500)
@given(EVENTS, st.sampled_from([1.0, 0.5, 0.0]), st.booleans())
def test_nothing_is_lost_and_counts_add_up(events: list[Any], share: float, shadow: bool) -> None:
    policy, watcher, now_s = Mischief(), Watcher(), [0.0]
    view = FleetView(NAMES, report_max_age_s=5.0)
    router = Router(
        policy,
        view,
        share=share,
        shadow=shadow,
        observers=[watcher],
        clock=lambda: now_s[0],
        deadline_s=None,
    )
    fleet, away = list(NAMES), set[str]()
    under_way: dict[str, int] = {}
    routed = refused = 0
    for number, (what, *of) in enumerate(events):
        now_s[0] += 0.25
        if what == "route":
            policy.what, prompt_tokens, wanted = of
            candidates = wanted or None
            free = [each for each in fleet if each not in away and (not wanted or each in wanted)]
            request = RoutedRequest(str(number), prompt_tokens, session=float(number % 3))
            asked = policy.asked
            if not free:
                refused += 1
                with pytest.raises(NoReplicaError):
                    router.route(request, candidates)
                continue
            routed += 1
            decision = router.route(request, candidates, send=number % 2 == 0)
            if number % 2:
                router.sent(request, decision.replica)
            under_way[request.request_id] = 0
            assert decision.replica in free and decision.replica == decision.ranked[0]
            assert sorted(decision.ranked) == sorted(free)
            was_asked = policy.asked > asked
            assert was_asked == (shadow or share == 1.0 or (share > 0 and was_asked))
            if was_asked:
                due = FAULTS.get(policy.what, "")
                if policy.what == "unavailable" and len(free) < len(fleet):
                    due = "illegal"
                assert decision.fallback == due
                acts = not shadow and not due
                assert decision.policy == ("mischief" if acts else "least_loaded")
                assert decision.shadow == (free_first(fleet, free) if shadow and not due else "")
                assert not acts or decision.replica == free_first(fleet, free)
            else:
                assert (decision.policy, decision.fallback, decision.shadow) == ("least_loaded", "", "")
        elif what in ("gone", "back", "report"):
            name = of[0]
            if name not in fleet:
                continue
            if what == "report":
                router.report(name, {"running": float(number), "waiting": 1.0})
            else:
                router.set_available(name, what == "back")
                away = away - {name} if what == "back" else away | {name}
        elif what == "fleet":
            away -= set(fleet) - set(of[0])
            fleet = of[0]
            router.set_replicas(fleet)
        elif under_way:
            key = list(under_way)[of[0] % len(under_way)]
            if what == "tokens":
                router.tokens(key, 1 + of[0])
                under_way[key] += 1 + of[0]
            elif what == "again":
                router.sent(RoutedRequest(key, 7.0), fleet[of[0] % len(fleet)])
                under_way[key] = 0
            else:
                router.ended(key, ok=what == "ended")
                router.ended(key)  # nobody is told twice
                assert watcher.tokens[key] == under_way.pop(key)
    assert len(watcher.decisions) == routed and len(watcher.refused_ids) == refused
    assert view.num_under_way <= len(under_way)
    for key, tokens in under_way.items():
        router.ended(key)
        assert watcher.tokens[key] == tokens
    assert set(watcher.ended_ids) == {each.request_id for each in watcher.decisions}
    assert set(watcher.ended_ids.values()) <= {1}
    assert not view.rows(now_s[0] + 100)[:, RUNNING : KV_USED_BLOCKS + 1].any()
    assert view.num_under_way == 0


def free_first(fleet: list[str], free: list[str]) -> str:
    """Of those that are free, the first of the fleet: what a policy chooses that does well."""
    return next(each for each in fleet if each in free)


def test_a_policy_that_hangs_costs_its_deadline_once_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    policy = Mischief("hangs")
    router = Router(policy, FleetView(NAMES), deadline_s=0.02)
    with caplog.at_level(logging.WARNING):
        decisions = [router.route(RoutedRequest(str(i), 1.0)) for i in range(50)]
    assert {each.fallback for each in decisions} == {"late"} and policy.asked == 1
    assert Counter(each.replica for each in decisions).most_common()[-1][1] >= 16
    assert caplog.text.count("its deadline has passed") == 1
    policy.what = "well"
    policy.held.set()
    for i in range(10_000):
        if not router.route(RoutedRequest(f"later {i}", 1.0)).fallback:
            return
        threading.Event().wait(0.001)
    raise AssertionError("the policy never came back")


def test_a_late_policy_does_not_see_or_change_the_rows_of_others() -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    class Late(Mischief):
        def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> Any:
            before = replicas.copy()
            if not seen:
                self.held.wait(60)
            seen.append((before, replicas.copy()))
            replicas[:] = -7.0
            return super().scores(request, replicas, session)

    policy, view = Late(), FleetView(NAMES)
    router = Router(policy, view, deadline_s=0.02)
    for i in range(5):
        router.route(RoutedRequest(str(i), 100.0))
    policy.held.set()
    while not seen:
        threading.Event().wait(0.001)
    assert np.array_equal(*seen[0])
    assert (view.rows(0.0) >= 0).all()


def test_a_policy_that_scribbles_on_what_it_sees_spoils_nothing() -> None:
    policy = Mischief("overwrites")
    router = Router(policy, FleetView(NAMES), deadline_s=None)
    router.set_available("a", False)
    for i in range(5):
        decision = router.route(RoutedRequest(str(i), 10.0))
        assert decision.replica != "a" and "a" not in decision.ranked
    assert router.fleet.rows(0.0)[:, AVAILABLE].tolist() == [0, 1, 1]


def test_without_fresh_reports_a_policy_that_needs_them_is_not_asked() -> None:
    now_s, policy = [0.0], Mischief()
    view = FleetView(NAMES, report_max_age_s=1.0)
    router = Router(policy, view, needs_reports=True, clock=lambda: now_s[0], deadline_s=None)
    assert router.route(RoutedRequest("0", 1.0)).fallback == "stale" and policy.asked == 0
    router.report("b", {"running": 1.0})
    now_s[0] = 1.0
    assert router.route(RoutedRequest("1", 1.0)).fallback == ""
    assert router.route(RoutedRequest("2", 1.0), ["a", "c"]).fallback == "stale"
    now_s[0] = 1.1
    assert router.route(RoutedRequest("3", 1.0)).fallback == "stale"


def test_the_share_is_of_sessions() -> None:
    policy = Mischief()
    router = Router(policy, FleetView(NAMES), share=0.3, deadline_s=None)
    by: dict[float, set[str]] = {}
    for i in range(3000):
        session = float(i % 1000)
        by.setdefault(session, set()).add(router.route(RoutedRequest(str(i), 1.0, session=session)).policy)
    assert all(len(each) == 1 for each in by.values())
    assert 0.25 < sum(each == {"mischief"} for each in by.values()) / 1000 < 0.35
    alone = [router.route(RoutedRequest(f"r{i}", 1.0)).policy for i in range(2000)]
    assert 0.26 < alone.count("mischief") / 2000 < 0.34


def test_each_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    policy = Mischief()
    router = Router(policy, FleetView(NAMES), deadline_s=None)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for policy.what in FAULTS:
                assert router.route(RoutedRequest("0", 1.0)).fallback in REASONS
    assert len(caplog.records) == len(set(FAULTS.values()))


def test_threads_route_while_the_fleet_changes() -> None:
    watcher, policy = Watcher(), Mischief()
    router = Router(policy, FleetView(NAMES), observers=[watcher], deadline_s=None)
    failed: list[BaseException] = []

    def serve(worker: int) -> None:
        try:
            for i in range(300):
                key = f"{worker}-{i}"
                router.route(RoutedRequest(key, 10.0, prefix_hashes=(1, 2, worker)))
                router.tokens(key, i % 3)
                router.ended(key, ok=i % 7 > 0)
        except BaseException as error:
            failed.append(error)

    def change() -> None:
        try:
            for i in range(300):
                router.set_replicas([*NAMES[: 1 + i % 3], "d"])
                router.set_available("d", i % 2 == 0)
                router.report("a", {"running": float(i)})
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(4)]
    threads.append(threading.Thread(target=change))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(watcher.decisions) == 1200 == sum(watcher.ended_ids.values()) == len(watcher.ended_ids)
    assert router.fleet.num_under_way == 0
    assert not router.fleet.rows(1e9)[:, RUNNING : KV_USED_BLOCKS + 1].any()


@pytest.mark.parametrize(("prompt_tokens", "due"), [(5000.0, 4096), (3200.0, 3199), (1.0, 0), (NAN, 0)])
def test_no_more_of_a_prompt_is_cached_than_all_but_its_last_token(prompt_tokens: float, due: int) -> None:
    """64 blocks are 16 kB, reckoned as 4,096 tokens: a front that counts may have found fewer."""
    seen: list[list[float]] = []

    class Sees(Mischief):
        def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> Any:
            seen.append(replicas[:, PREFIX_HIT_TOKENS].tolist())
            return super().scores(request, replicas, session)

    router = Router(Sees(), FleetView(NAMES), deadline_s=None)
    for i in range(2):
        router.route(RoutedRequest(str(i), prompt_tokens, prefix_hashes=tuple(range(64))))
    assert seen == [[0, 0, 0], [due, 0, 0]]
