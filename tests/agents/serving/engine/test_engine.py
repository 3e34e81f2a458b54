"""An engine goes by its policy, and by its own rules where the policy fails."""

import logging
import time

import numpy as np
import pytest

from servegym.agents.serving.artifact.load import load_artifact
from servegym.agents.serving.contracts import EngineLimits, EngineState, as_it_is
from servegym.agents.serving.engine.engine import LATE, MALFORMED, RAISED, Engine
from servegym.agents.serving.engine.learned_scheduler import LearnedScheduler
from servegym.agents.serving.heuristics import RankedScheduler
from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError

LIMITS = EngineLimits(token_budget=512, max_num_seqs=8, block_size=16, num_kv_blocks=200)


def state(prompts, predicted, running=0) -> EngineState:
    def rows(count, computed):
        table = np.zeros((count, 7))
        table[:, 0], table[:, 3] = prompts[:count], predicted[:count]
        table[:, 2] = computed
        return table

    decodes = rows(running, 0)
    decodes[:, 1], decodes[:, 2], decodes[:, 6] = 5, decodes[:, 0] + 4, 10
    return EngineState(LIMITS, rows(len(prompts), 0), decodes, 200 - 10 * running)


class Reversed:
    name = "reversed"

    def plan(self, seen):
        order = tuple(range(len(seen.waiting)))[::-1]
        return as_it_is(seen)._replace(waiting=order, token_budget=100)


class Broken(Reversed):
    def __init__(self, what):
        self.what = what

    def plan(self, seen):
        if self.what == "raises":
            raise RuntimeError("no")
        if self.what == "hangs":
            time.sleep(0.3)
        return {
            "twice": as_it_is(seen)._replace(waiting=(0, 0)),
            "unknown": as_it_is(seen)._replace(waiting=(7,)),
            "too many tokens": as_it_is(seen)._replace(token_budget=513),
            "no tokens": as_it_is(seen)._replace(token_budget=0),
            "too many seats": as_it_is(seen)._replace(max_running=9),
            "left out": as_it_is(seen)._replace(running=(0,)),
            "negative": as_it_is(seen)._replace(preempt=(-1,)),
            "nothing": None,
        }.get(self.what, as_it_is(seen))


SEEN = state([10, 20, 30], [3, 2, 1], running=2)


def test_the_policy_decides():
    planned = Engine(Reversed()).plan(SEEN)
    assert planned.plan.waiting == (2, 1, 0) and planned.plan.token_budget == 100
    assert (planned.policy, planned.fallback) == ("reversed", "")


def test_in_the_shadow_it_is_asked_and_does_not_act():
    planned = Engine(Reversed(), shadow=True).plan(SEEN)
    assert (planned.plan, planned.policy, planned.fallback) == (as_it_is(SEEN), "engine", "")


@pytest.mark.parametrize(
    "what, reason",
    [
        ("raises", RAISED),
        ("hangs", LATE),
        ("twice", MALFORMED),
        ("unknown", MALFORMED),
        ("too many tokens", MALFORMED),
        ("no tokens", MALFORMED),
        ("too many seats", MALFORMED),
        ("left out", MALFORMED),
        ("negative", MALFORMED),
        ("nothing", RAISED),
    ],
)
def test_what_cannot_be_done_is_counted_and_said_once(what, reason, caplog):
    engine = Engine(Broken(what), deadline_s=0.05)
    with caplog.at_level(logging.WARNING):
        plans = [engine.plan(SEEN) for _ in range(3)]
    assert all(each.plan == as_it_is(SEEN) and each.fallback == reason for each in plans)
    assert engine.fallbacks == {reason: 3} and engine.plans == 3
    assert len(caplog.records) == 1


def test_a_published_ranking_orders_who_waits():
    plan = Engine(RankedScheduler("sjf")).plan(SEEN).plan
    assert plan.waiting == (2, 1, 0) and plan.running is None
    plan = Engine(RankedScheduler("srpt")).plan(SEEN).plan
    assert sorted(plan.running) == [0, 1]


@pytest.mark.parametrize("name", ["fastserve", "vtc"])
def test_rankings_that_remember_requests_are_refused(name):
    parameters = {"num_tenants": 2} if name == "vtc" else {}
    with pytest.raises(InputError, match=f"scheduler {name}: must remember"):
        RankedScheduler(name, parameters)


@pytest.mark.parametrize("name", ["zoo:scheduler", "zoo:two_level"])
def test_an_exported_policy_plans_what_can_be_done(name):
    engine = Engine(LearnedScheduler(load_artifact(policy_folder(name))), deadline_s=None)
    rng = np.random.default_rng(0)
    admitted = 0
    for _ in range(30):
        count = int(rng.integers(1, 50))
        prompts = rng.integers(1, 400, count).astype(float)
        planned = engine.plan(
            state(prompts, rng.integers(1, 300, count), int(rng.integers(0, min(4, count))))
        )
        assert planned.fallback == ""
        admitted += len(planned.plan.waiting)
    assert admitted > 30


def test_an_exported_router_cannot_schedule():
    with pytest.raises(InputError, match="decides as router; must be scheduler or two_level"):
        LearnedScheduler(load_artifact(policy_folder("zoo:router")))
