"""Train/serve skew: the rows of a real router are those that its policy has seen in the gym."""

import copy
from collections import defaultdict, deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.agents.serving.routing.fleet_view import (
    AVAILABLE,
    DECODE_CONTEXT_TOKENS,
    KV_RELEASED_PER_ITERATION,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    OUTSTANDING_TOKENS,
    PREDICTED_REMAINING_TOKENS,
    PREFIX_HIT_TOKENS,
    QUEUED_PREFILL_TOKENS,
    REPORT_COLUMNS,
    RUNNING,
    SPEED,
    UNSEEN_PREFILL_TOKENS,
    UNSEEN_REQUESTS,
    WAITING,
    FleetView,
)
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router as ServingRouter
from servegym.costmodels.errors import InputError
from servegym.envs.routing.fleet_episodes import FleetRoutingEpisodes
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.log import IterationLog
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.workloads import Workload
from tests.conftest import examples

NAMES = ["gpu-0", "gpu-1", "gpu-2"]
REPLICAS = len(NAMES)
DELAY_S = 0.25


def _scenario(*overrides: str) -> Scenario:
    return load_scenario(
        "generated_8xh100",
        (f"scenario.fleet.replicas={REPLICAS}", "scenario.workload.prediction_error=0.5", *overrides),
    )


def _of_fleet(scenario: Scenario, **keys: float) -> Scenario:
    """The same with another dispatch latency or state delay."""
    scenario = copy.copy(scenario)
    scenario.plan = replace(scenario.plan, **keys)  # type: ignore[arg-type]
    return scenario


def _workload(scenario: Scenario, arrival_s: np.ndarray) -> Workload:
    """Requests of the scenario at these instants."""
    workload = scenario.traffic.long_workload("train", len(arrival_s), np.random.SeedSequence(3))
    return replace(workload, arrival_s=arrival_s)


def _observed(scenario: Scenario, workload: Workload, choices: np.ndarray) -> list[np.ndarray]:
    """The gym's observations of the replicas, one a decision, where these are chosen."""
    episodes = FleetRoutingEpisodes(scenario, 1, workload.num_requests)
    episodes.begin(0, workload)
    observed = []
    for choice in choices:
        observed.append(episodes.replicas[0].copy())
        episodes.step(np.array([choice]))
    assert episodes.finished.all()
    return observed


def test_a_router_is_asked_about_requests_as_the_gym_asks() -> None:
    scenario = _scenario("scenario.workload.clients.priority_shares=[0.5,0.5]")
    workload = scenario.traffic.test_workload(0).take(slice(50))
    episodes = FleetRoutingEpisodes(scenario, 1, 50)
    episodes.begin(0, workload)
    asked, now_s = [], [0.0]

    class Remembers(LeastLoaded):
        def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = -1.0) -> np.ndarray:
            asked.append(request.copy())
            return super().scores(request, replicas, session)

    router = ServingRouter(Remembers(), FleetView(NAMES), clock=lambda: now_s[0], deadline_s=None)
    for i in range(50):
        now_s[0] = float(workload.arrival_s[i])
        assert workload.priority is not None
        router.route(_request(workload, i)._replace(priority=float(workload.priority[i])))
        np.testing.assert_array_equal(asked[i], episodes.request[0])
        episodes.step(np.array([0]))


def _request(workload: Workload, i: int) -> RoutedRequest:
    predicted = workload.predicted_output_tokens
    return RoutedRequest(
        str(i), float(workload.prompt_tokens[i]), 0.0 if predicted is None else float(predicted[i])
    )


def _report(row: np.ndarray) -> dict[str, float]:
    return {name: float(row[column]) for name, column in REPORT_COLUMNS.items()}


def _instants() -> np.ndarray:
    """Each of them, but for the first dozen, `DELAY_S` after another; some a few milliseconds apart."""
    offsets = np.sort(np.random.default_rng(0).choice(256, 12, replace=False)) / 1024
    return np.concatenate([offsets + DELAY_S * k for k in range(25)])


@pytest.mark.parametrize("dispatch_latency_s", [0.0021, 0.005, 0.3])
def test_rows_from_old_reports_are_the_gyms_rows_of_stale_state(dispatch_latency_s: float) -> None:
    """What replicas said of themselves at t - d comes from a fleet without delay, with the same choices."""
    scenario = _scenario()
    workload = _workload(scenario, _instants())
    choices = np.random.default_rng(1).integers(REPLICAS, size=workload.num_requests)
    live = _of_fleet(scenario, dispatch_latency_s=dispatch_latency_s)
    stale = _of_fleet(live, state_delay_s=DELAY_S)
    said, due = (_observed(each, workload, choices) for each in (live, stale))
    view = FleetView(NAMES, dispatch_latency_s=dispatch_latency_s, kv_blocks=scenario.engine.num_kv_blocks)
    unseen = 0.0
    for i, now_s in enumerate(workload.arrival_s):
        if i >= 12:
            for name, row in zip(NAMES, said[i - 12], strict=True):
                view.report(name, _report(row), now_s - DELAY_S)
            rows = view.rows(now_s)
            np.testing.assert_array_equal(rows, due[i])
            unseen += rows[:, UNSEEN_REQUESTS].sum()
        view.sent(_request(workload, i), NAMES[choices[i]], now_s)
    assert unseen > workload.num_requests and max(row[:, RUNNING].max() for row in due) > 5
    assert sum((row[:, WAITING] > 0).any() for row in due) > 5


@pytest.mark.parametrize("dispatch_latency_s", [0.0, 0.005])
def test_rows_from_reports_of_now_are_the_gyms_rows_of_live_state(dispatch_latency_s: float) -> None:
    scenario = _scenario()
    workload = _workload(scenario, _instants())
    choices = np.random.default_rng(1).integers(REPLICAS, size=workload.num_requests)
    due = _observed(_of_fleet(scenario, dispatch_latency_s=dispatch_latency_s), workload, choices)
    view = FleetView(NAMES, dispatch_latency_s=dispatch_latency_s)
    for i, now_s in enumerate(workload.arrival_s):
        for name, row in zip(NAMES, due[i], strict=True):
            view.report(name, _report(row), now_s)
        np.testing.assert_array_equal(view.rows(now_s), due[i])
        view.sent(_request(workload, i), NAMES[choices[i]], now_s)


Served = tuple[list[np.ndarray], Results]


def _routed(scenario: Scenario, workload: Workload, choices: np.ndarray) -> Served:
    """Rows that a router sees in the simulator, one a decision, and all that happened then."""
    seen: list[np.ndarray] = []

    def choose(replicas: np.ndarray, *_: object) -> int:
        seen.append(replicas[:, : len(REPORT_COLUMNS) + 4].copy())
        return int(choices[(len(seen) - 1) % len(choices)])

    results = simulate(
        workload,
        Router("recorded", choose),
        num_replicas=REPLICAS,
        engine=scenario.engine,
        cost=scenario.cost,
        log=True,
    )
    return seen[-len(choices) :], results  # it is simulated twice where there is a log


def _tokens(log: IterationLog, workload: Workload) -> list[tuple[float, int, int]]:
    """(instant, request, 1 for a token that comes back), in order."""
    generated: dict[int, int] = defaultdict(int)
    events = []
    for iteration in np.sort(log.iterations, order="end_s"):
        first = iteration["first_entry"]
        for entry in log.entries[first : first + iteration["num_entries"]]:
            i = int(entry["request"])
            known = workload.prompt_tokens[i] + generated[i]
            if entry["computed"] + entry["tokens"] >= known:
                generated[i] += 1
                events.append((float(iteration["end_s"]), i, generated[i]))
    assert all(generated[i] == workload.output_tokens[i] for i in range(workload.num_requests))
    return events


def _begun(log: IterationLog) -> list[tuple[float, int, int]]:
    """(instant, request, tokens of it computed by the end of the iteration that starts then), in order."""
    return [
        (float(iteration["start_s"]), int(entry["request"]), int(entry["computed"] + entry["tokens"]))
        for iteration in np.sort(log.iterations, order="start_s")
        for entry in log.entries[iteration["first_entry"] :][: iteration["num_entries"]]
        if entry["is_prefill"]
    ]


@pytest.mark.parametrize("budget", [512, 8192])
def test_rows_from_the_routers_own_books_are_the_gyms_but_for_what_it_cannot_know(budget: int) -> None:
    scenario = _scenario(f"scenario.engine.max_num_batched_tokens={budget}")
    arrivals = np.cumsum(np.random.default_rng(5).exponential(0.015, 200))
    workload = _workload(scenario, arrivals)
    choices = np.random.default_rng(1).integers(REPLICAS, size=200)
    due, results = _routed(scenario, workload, choices)
    assert results.log is not None and not results.preemptions.any()
    tokens, begun = deque(_tokens(results.log, workload)), deque(_begun(results.log))
    computed = np.zeros(200)
    size = scenario.engine.block_size
    view = FleetView(NAMES, block_size=size, kv_blocks=scenario.engine.num_kv_blocks)
    waiting, ahead_of_gym = 0, 0.0
    for i, now_s in enumerate(arrivals):
        while tokens and tokens[0][0] <= now_s:
            _, request, count = tokens.popleft()
            view.tokens(str(request))
            if count == workload.output_tokens[request]:
                view.ended(str(request))
        while begun and begun[0][0] < now_s:
            _, request, computed[request] = begun.popleft()
        rows, gym = view.rows(now_s), due[i]

        known = [
            AVAILABLE,
            OUTSTANDING_TOKENS,
            KV_TOTAL_BLOCKS,
            PREDICTED_REMAINING_TOKENS,
            PREFIX_HIT_TOKENS,
        ]
        known += [DECODE_CONTEXT_TOKENS, SPEED, UNSEEN_REQUESTS, UNSEEN_PREFILL_TOKENS]
        np.testing.assert_array_equal(rows[:, known], gym[:, known].astype(np.float32))
        np.testing.assert_array_equal(rows[:, [RUNNING, WAITING]].sum(1), gym[:, [RUNNING, WAITING]].sum(1))
        assert not rows[:, KV_RELEASED_PER_ITERATION].any()

        # To the router a request waits, and has its whole prompt before it, until its first token is there.
        prefilling = np.flatnonzero((computed > 0) & (results.first_token_s > now_s))
        of_replica = [prefilling[results.replica[prefilling] == each] for each in range(REPLICAS)]
        np.testing.assert_array_equal(rows[:, WAITING] - gym[:, WAITING], [len(each) for each in of_replica])
        ahead = [computed[each].sum() for each in of_replica]
        np.testing.assert_array_equal(rows[:, QUEUED_PREFILL_TOKENS] - gym[:, QUEUED_PREFILL_TOKENS], ahead)
        # Nor does it know of blocks taken for prompts, or for the token that is being made.
        most = rows[:, RUNNING] + [np.ceil(workload.prompt_tokens[each] / size).sum() for each in of_replica]
        lacking = gym[:, KV_USED_BLOCKS] - rows[:, KV_USED_BLOCKS]
        assert (lacking >= 0).all() and (lacking <= most).all()
        waiting += gym[:, WAITING].max() > 0
        ahead_of_gym += sum(ahead)

        view.sent(_request(workload, i), NAMES[choices[i]], now_s)
    assert ahead_of_gym > 1000
    assert waiting > 10 or budget == 8192


Event = tuple[str, int, int]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["sent", "sent", "tokens", "tokens", "ended", "report", "gone", "back", "fleet"]),
        st.integers(0, 9),
        st.integers(0, 5),
    ),
    max_size=60,
)


class Books:
    """What FleetView should say, counted anew from all that has happened."""

    def __init__(self) -> None:
        self.names = ["a", "b", "c"]
        self.requests: dict[str, list[float]] = {}  # replica, prompt, predicted, generated
        self.where: dict[str, str] = {}
        self.sent: list[tuple[float, str, float]] = []
        self.reports: dict[str, tuple[float, float]] = {}
        self.away: set[str] = set()

    def rows(self, now_s: float, view: FleetView) -> np.ndarray:
        rows = np.zeros((len(self.names), len(REPORT_COLUMNS) + 4))
        rows[:, KV_TOTAL_BLOCKS], rows[:, SPEED] = 100, 1
        for name, row in zip(self.names, rows, strict=True):
            row[AVAILABLE] = name not in self.away
            for key, (prompt, predicted, generated) in self.requests.items():
                if self.where[key] != name:
                    continue
                row[RUNNING if generated else WAITING] += 1
                row[OUTSTANDING_TOKENS] += prompt + generated
                row[PREDICTED_REMAINING_TOKENS] += predicted - generated if predicted else 0
                if generated:
                    row[DECODE_CONTEXT_TOKENS] += prompt + generated - 1
                    row[KV_USED_BLOCKS] += -(-(prompt + generated - 1) // 16)
                else:
                    row[QUEUED_PREFILL_TOKENS] += prompt
            row[PREDICTED_REMAINING_TOKENS] = max(0, row[PREDICTED_REMAINING_TOKENS])
            at_s, told = self.reports.get(name, (-np.inf, 0.0))
            if now_s - at_s <= view.report_max_age_s:
                row[WAITING], row[QUEUED_PREFILL_TOKENS] = told, 10 * told
                unseen = [tokens for s, to, tokens in self.sent if to == name and s + 0.5 > at_s]
                row[UNSEEN_REQUESTS], row[UNSEEN_PREFILL_TOKENS] = len(unseen), sum(unseen)
        return rows


@examples(400)
@given(EVENTS)
def test_its_books_are_right_whatever_happens(events: list[Event]) -> None:
    """Reports say how many wait; the rest is reckoned. Requests need half a second to their replica."""
    view = FleetView("abc", kv_blocks=100, report_max_age_s=3.0, dispatch_latency_s=0.5)
    books, now_s = Books(), 0.0
    for what, i, number in events:
        key, name = str(i), books.names[number % len(books.names)]
        if what == "sent":
            view.sent(RoutedRequest(key, 10.0 * i + 1, 2.0 * number), name, now_s)
            books.requests[key], books.where[key] = [10 * i + 1, 2 * number, 0], name
            books.sent.append((now_s, name, 10 * i + 1))
        elif what == "tokens":
            view.tokens(key, number)
            if key in books.requests:
                books.requests[key][2] += number
        elif what == "ended":
            view.ended(key)
            books.requests.pop(key, None)
        elif what == "report":
            view.report(
                name, {"waiting": i, "queued_prefill_tokens": 10 * i, "unknown": 7}, now_s - number / 4
            )
            books.reports[name] = (now_s - number / 4, i)
        elif what in ("gone", "back"):
            view.set_available(name, what == "back")
            books.away = books.away - {name} if what == "back" else books.away | {name}
            if what == "gone":
                books.reports.pop(name, None)
        else:
            names = ["abcde"[(i + j) % 5] for j in range(1 + number % 4)]
            lost = set(books.names) - set(names)
            view.set_replicas(names)
            books.names, books.away = names, books.away - lost
            books.sent = [each for each in books.sent if each[1] not in lost]
            books.requests = {k: each for k, each in books.requests.items() if books.where[k] not in lost}
            books.reports = {k: each for k, each in books.reports.items() if k not in lost}
        assert view.num_under_way == len(books.requests)
        np.testing.assert_array_equal(view.rows(now_s), books.rows(now_s, view))
        now_s += 0.25
    for key in list(books.requests):
        view.ended(key)
    later = view.rows(now_s + 100)[:, RUNNING : KV_USED_BLOCKS + 1]
    assert not later.any() and view.num_under_way == 0


def test_a_report_that_is_no_number_leaves_the_last_one() -> None:
    view = FleetView("ab")
    view.report("a", {"running": 3.0}, 0.0)
    for bad in (-1.0, float("nan"), float("inf"), 1e300):
        with pytest.raises(InputError, match=r"running = .* of a: must be from 0 to 1e\+12"):
            view.report("a", {"waiting": 1.0, "running": bad}, 5.0)
    assert view.rows(0.5)[0, [RUNNING, WAITING]].tolist() == [3, 0]
    with pytest.raises(InputError, match="replica = c: must be one of a, b"):
        view.report("c", {}, 0.0)


def test_requests_of_impossible_lengths_spoil_no_sum() -> None:
    view = FleetView("a")
    view.sent(RoutedRequest("0", 10.0, 5.0), "a", 0.0)
    for bad in (float("nan"), float("inf"), -5.0, 1e300):
        view.sent(RoutedRequest("1", bad, bad), "a", 0.0)
        row = view.rows(0.0)[0]
        sums = row[[WAITING, QUEUED_PREFILL_TOKENS, OUTSTANDING_TOKENS, PREDICTED_REMAINING_TOKENS]]
        assert sums.tolist() == [2, 10, 10, 5]
        view.tokens("1", 3)
    assert view.rows(0.0)[0, OUTSTANDING_TOKENS] == 13


def test_names_are_there_once_at_least_one() -> None:
    view = FleetView("ab")
    for names in ("", "aa"):
        with pytest.raises(InputError, match="must be names, one at least and none twice"):
            FleetView(names)
        with pytest.raises(InputError, match="must be names, one at least and none twice"):
            view.set_replicas(names)
    assert view.names == ["a", "b"]


def test_unseen_requests_are_forgotten_where_nobody_ever_reports() -> None:
    view = FleetView("a", report_max_age_s=1.0)
    for i in range(1000):
        view.sent(RoutedRequest(str(i), 1.0), "a", float(i))
        view.ended(str(i))
    view.report("a", {"waiting": 0.0}, 990.5)
    assert view.rows(1000.0)[0, UNSEEN_REQUESTS] <= 2 and not view.rows(5000.0)[0, UNSEEN_REQUESTS]


def test_gaps_between_requests() -> None:
    view = FleetView("a")
    assert [view.gap_s(at_s) for at_s in (5.0, 5.5, 7.5)] == [0.0, 0.5, 2.0]
