"""The fast simulator and the naive reference, written apart, agree under a manager that does anything."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from servegym.costmodels.native.jit import jit
from servegym.envs.sim.elastic.actions import UNLIMITED
from servegym.envs.sim.elastic.manager import Manager
from servegym.envs.sim.elastic.queue import first_waiting, next_waiting
from servegym.envs.sim.elastic.simulate import simulate_elastic
from servegym.envs.sim.elastic.state import NOBODY, FleetState
from tests.conftest import examples
from tests.envs.sim.elastic import acting
from tests.envs.sim.elastic.random_cases import GRID_S, assert_same, random_case
from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.request import Group, Request
from tests.reference.elastic.results import ElasticResults
from tests.reference.elastic.simulate import simulate

Action = tuple[str, tuple[Any, ...]]


class AtRandom:
    """Acts on the reference, writing down what it does and what it sees, at each instant."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.hurry = float(rng.choice([0.2, 0.9]))  # how soon groups at rest go on
        self.written: list[tuple[dict[str, Any], list[Action]]] = []

    def act(self, fleet: Fleet) -> None:
        """A few actions; at least one iteration runs in the end, where there is anything to do."""
        self.fleet = fleet
        self.actions: list[Action] = []
        self.written.append((seen_in_reference(fleet), self.actions))
        for _ in range(self.rng.integers(4)):
            self.one_of([self.prefill, self.merge, self.migrate, self.pause, self.reject])()
        for group in list(fleet.groups):
            if group.at_rest and self.rng.random() < self.hurry:
                self.decode(group)
        while not fleet.anything_runs and (fleet.queue or fleet.groups):
            if self.rng.integers(2) and fleet.queue:
                self.prefill()
            elif fleet.groups:
                group = self.one_of(fleet.groups)
                self.decode(group)
                if group.at_rest:
                    self.pause([group])

    def one_of(self, choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def some(self, choices: list[Any], least: int = 0) -> list[Any]:
        """Any of them, in any order."""
        number = int(self.rng.integers(min(least, len(choices)), len(choices) + 1))
        return [choices[at] for at in self.rng.permutation(len(choices))[:number]]

    def delay(self) -> float:
        return float(self.rng.integers(2) * self.rng.integers(1, 5) * GRID_S)

    def idle(self) -> list[int]:
        return [i for i in self.fleet.instances if not self.fleet.runs(i)]

    def at_rest(self) -> list[Group]:
        return [group for group in self.fleet.groups if group.at_rest]

    def prefill(self) -> None:
        fleet = self.fleet
        requests = self.some(fleet.queue, 1)[: int(self.rng.choice([1, 2, 40]))]
        instances, striped = self.some(self.idle(), 1), bool(self.rng.integers(2))
        if not requests or not instances or len(fleet.groups) == fleet.num_instances:
            return
        tokens = sum(r.tokens for r in requests)
        if striped:
            most = sum(-(-r.tokens // len(instances)) for r in requests)
            has_room = most <= min(fleet.free(i) for i in instances)
        else:
            has_room = tokens <= sum(fleet.free(i) for i in instances)
        if has_room:
            delay = self.delay()
            self.actions.append(("prefill", ([r.index for r in requests], instances, delay, striped)))
            fleet.prefill(requests, instances, delay, striped)

    def decode(self, group: Group) -> None:
        fleet = self.fleet
        idle = self.idle()
        added = self.some([i for i in idle if i not in group.members]) if self.rng.random() < 0.3 else []
        members = [*group.members, *added]
        if not set(members) <= set(idle) or sum(fleet.free(i) for i in members) < len(group.requests):
            return
        master_batch, fullest_first = int(self.one_of([1, 2, 5, 128, UNLIMITED])), bool(self.rng.integers(2))
        delay = self.delay()
        self.actions.append(("decode", (group.number, added, delay, master_batch, fullest_first)))
        fleet.decode(group, added, delay, master_batch=master_batch, fullest_first=fullest_first)

    def merge(self) -> None:
        groups = self.some(self.at_rest())
        if len(groups) >= 2:
            self.actions.append(("merge", (groups[0].number, groups[1].number)))
            self.fleet.merge(groups[0], groups[1])

    def migrate(self) -> None:
        fleet = self.fleet
        for group in self.some(self.at_rest())[:1]:
            sources = [i for i in group.members if not fleet.runs(i)]
            targets = [i for i in self.idle() if fleet.free(i)]
            if sources and targets:
                source, target = self.one_of(sources), self.one_of(targets)
                if source != target:
                    most = min(fleet.held(group, source), fleet.free(target))
                    tokens = most if self.rng.integers(2) else int(self.rng.integers(1, most + 1))
                    seconds = fleet.migrate(group, source, target, tokens)
                    self.actions.append(("migrate", (group.number, source, target, tokens, seconds)))

    def pause(self, groups: Sequence[Group] = ()) -> None:
        for group in groups or self.some(self.at_rest())[:1]:
            request: Request = self.one_of(group.requests)
            self.actions.append(("pause", (request.index,)))
            self.fleet.pause(request)

    def reject(self) -> None:
        if self.fleet.queue and self.rng.random() < 0.1:
            request = self.one_of(self.fleet.queue)
            self.actions.append(("reject", (request.index,)))
            self.fleet.reject(request)


@jit
def _queue(state, waiting):
    at, request = 0, first_waiting(state)
    while request != NOBODY:
        waiting[at] = request
        at += 1
        request = next_waiting(state, request)
    return at


def again(written: list[tuple[dict[str, Any], list[Action]]]) -> Callable[[FleetState], None]:
    """Does the same in the fast simulator, where everything must look the same."""
    left = list(written)

    def act(state: FleetState) -> None:
        seen, actions = left.pop(0)
        assert seen_in_fast(state) == seen
        for name, arguments in actions:
            DOES[name](state, *arguments)

    return act


def _migrates(state: FleetState, group: int, source: int, target: int, tokens: int, seconds: float) -> None:
    assert acting.migrate(state, group, source, target, tokens) == seconds


DOES: dict[str, Callable[..., Any]] = {
    "prefill": lambda state, requests, instances, *rest: acting.prefill(
        state, np.array(requests, np.int64), np.array(instances, np.int64), *rest
    ),
    "decode": lambda state, group, added, *rest: acting.decode(
        state, group, np.array(added, np.int64), *rest
    ),
    "merge": acting.merge,
    "migrate": _migrates,
    "pause": acting.pause,
    "reject": acting.reject,
}


def seen_in_reference(fleet: Fleet) -> dict[str, Any]:
    """The state, as plain values."""
    return {
        "now": fleet.now,
        "used": fleet.used,
        "queue": [r.index for r in fleet.queue],
        "groups": {
            group.number: (
                [r.index for r in group.requests],
                sorted(group.members),
                group.at_rest,
                [fleet.held(group, i) for i in fleet.instances],
            )
            for group in fleet.groups
        },
    }


def seen_in_fast(state: FleetState) -> dict[str, Any]:
    """Likewise."""
    waiting = np.zeros(state.arrival_s.size, np.int64)
    return {
        "now": float(state.clock[0]),
        "used": state.used.tolist(),
        "queue": waiting[: _queue(state, waiting)].tolist(),
        "groups": {
            int(group): (
                state.requests[group, : state.size[group]].tolist(),
                np.flatnonzero(state.member[group]).tolist(),
                bool(np.isinf(state.end_s[group])),
                state.group_kv[group].tolist(),
            )
            for group in np.flatnonzero(state.size)
        },
    }


def check(seed: int) -> ElasticResults:
    case = random_case(seed)
    manager = AtRandom(case.rng)
    slow = simulate(case.fleet, case.workload, manager)
    fast = simulate_elastic(case.fleet, case.workload, Manager("again", again(manager.written)))
    assert_same(fast, slow)
    return slow


@given(seed=st.integers(0, 2**63 - 1))
@examples(200)
def test_equal_on_random_cases(seed: int) -> None:
    """Times of every request, and queue, pools and groups whenever the manager is called."""
    check(seed)


def test_random_cases_are_worth_comparing() -> None:
    """All actions, all outcomes."""
    cases = [check(seed) for seed in range(40)]
    for name in ("scale_ups", "pauses", "migrations"):
        assert sum(getattr(results, name) for results in cases) > 20, name
    outcomes = [outcome for results in cases for outcome in results.outcome]
    assert min(outcomes.count("finished"), outcomes.count("rejected")) > 20
    striped_or_packed = sum(results.prefills for results in cases)
    assert striped_or_packed > 100
