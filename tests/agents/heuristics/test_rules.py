"""Each router's rule on fleets small enough to decide by hand."""

from collections import Counter

import numpy as np
import pytest

from servegym.agents.heuristics import ROUTERS, HeuristicPolicy, make_router
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.router import Router, random_state
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    KV_TOTAL_BLOCKS,
    PROMPT_TOKENS,
    REPLICA_COLUMNS,
    REPLICA_FEATURES,
    REQUEST_FEATURES,
    ROUTER_REQUEST_FEATURES,
)

COLUMN = {name: column for column, (name, _) in enumerate(REPLICA_COLUMNS)}


def fleet(num_replicas: int, **columns: list[float]) -> np.ndarray:
    """Rows of available replicas with some columns given by name."""
    rows = np.zeros((num_replicas, REPLICA_FEATURES))
    rows[:, AVAILABLE] = 1.0
    rows[:, KV_TOTAL_BLOCKS] = 100.0
    for name, values in columns.items():
        rows[:, COLUMN[name]] = values
    return rows


def decide(router: Router, rows: np.ndarray, times: int = 1, prompt_tokens: int = 0) -> list[int]:
    """The router's choices when asked `times` times in a row."""
    request = np.zeros(ROUTER_REQUEST_FEATURES)
    request[PROMPT_TOKENS] = prompt_tokens
    memory, random = router.new_memory(len(rows)), random_state(np.random.SeedSequence(0))
    return [router.choose(rows, request, router.parameters, memory, random) for _ in range(times)]


def test_round_robin_takes_turns_and_skips_the_unavailable() -> None:
    router = make_router("round_robin")
    assert decide(router, fleet(3), 5) == [0, 1, 2, 0, 1]
    assert decide(router, fleet(3, available=[1, 0, 1]), 4) == [0, 2, 0, 2]


def test_round_robin_serves_sets_that_alternate_each_in_turn() -> None:
    """As the stages of a request do: prefill on 0 to 2, decode on 3 to 6."""
    router, memory = make_router("round_robin"), make_router("round_robin").new_memory(7)
    stages = [fleet(7, available=[1, 1, 1, 0, 0, 0, 0]), fleet(7, available=[0, 0, 0, 1, 1, 1, 1])]
    chosen = [choose_once(router, stages[turn % 2], memory) for turn in range(24)]
    assert chosen[0::2] == [0, 1, 2] * 4
    assert chosen[1::2] == [3, 4, 5, 6] * 3


def test_round_robin_takes_whoever_has_waited_longest() -> None:
    """Against the rule in plain words, on sets drawn at random."""
    rng = np.random.default_rng(0)
    router = make_router("round_robin")
    for num_replicas in (1, 2, 5, 9):
        memory, last_turn = router.new_memory(num_replicas), np.full(num_replicas, -1)
        for turn in range(300):
            available = rng.random(num_replicas) < 0.6
            chosen = choose_once(router, fleet(num_replicas, available=available.tolist()), memory)
            longest = min(np.flatnonzero(available), key=last_turn.__getitem__, default=-1)
            assert chosen == longest
            if chosen >= 0:
                last_turn[chosen] = turn


def choose_once(router: Router, rows: np.ndarray, memory: np.ndarray) -> int:
    """One choice, which moves the memory on."""
    request = np.zeros(ROUTER_REQUEST_FEATURES)
    return int(router.choose(rows, request, router.parameters, memory, np.zeros(1, np.uint64)))


def test_random_is_uniform_over_the_available() -> None:
    counts = Counter(decide(make_router("random"), fleet(4, available=[1, 0, 1, 1]), 6000))
    assert set(counts) == {0, 2, 3}
    assert all(abs(count - 2000) < 150 for count in counts.values())


def test_jsq_counts_running_and_waiting() -> None:
    assert decide(make_router("jsq"), fleet(3, running=[5, 4, 1], waiting=[0, 0, 3])) == [1]
    assert decide(make_router("jsq"), fleet(3, running=[5, 4, 1], waiting=[0, 0, 2])) == [2]


def test_least_outstanding_tokens() -> None:
    rows = fleet(3, outstanding_tokens=[50, 20, 30], running=[1, 9, 1])
    assert decide(make_router("least_outstanding_tokens"), rows) == [1]


def test_lowest_kv_use_compares_shares() -> None:
    rows = fleet(2, kv_used_blocks=[30, 40], kv_total_blocks=[50, 100])
    assert decide(make_router("lowest_kv_use"), rows) == [1]


@pytest.mark.parametrize("name", ["jsq", "least_outstanding_tokens", "lowest_kv_use", "sal", "power_of_two"])
def test_unavailable_replicas_are_never_chosen(name: str) -> None:
    """Even when they look idle."""
    columns = {"running": [0, 7, 8], "outstanding_tokens": [0, 7, 8], "kv_used_blocks": [0, 7, 8]}
    rows = fleet(3, available=[0, 1, 1], queued_prefill_tokens=[0, 7, 8], **columns)
    assert set(decide(make_router(name), rows, 50)) == {1}


@pytest.mark.parametrize("name", ROUTERS)
def test_nobody_available(name: str) -> None:
    """-1, which the simulator refuses."""
    assert decide(make_router(name), fleet(2, available=[0, 0])) == [-1]


def test_power_of_two_draws_pairs_evenly_and_takes_the_shorter() -> None:
    """With queues 0 < 1 < 2 < 3 the shortest wins 3 of 6 pairs, the next 2, the next 1, the longest none."""
    counts = Counter(decide(make_router("power_of_two"), fleet(4, running=[0, 1, 2, 3]), 12_000))
    assert counts[3] == 0
    for replica, expected in ((0, 6000), (1, 4000), (2, 2000)):
        assert abs(counts[replica] - expected) < 250


def test_power_of_all_is_jsq() -> None:
    rows = fleet(4, running=[3, 1, 2, 4])
    assert set(decide(make_router("power_of_two", d=4), rows, 30)) == {1}
    assert set(decide(make_router("power_of_two", d=9), rows, 30)) == {1}


@pytest.mark.parametrize(
    ("terms", "expected"),
    [("compute", 0), ("memory", 1), ("max", 2), ("sum", 2)],
)
def test_sal_waits_for_budget_or_memory(terms: str, expected: int) -> None:
    """Iterations until a prompt of 100 tokens starts, budget 100, blocks of 16, 50 tokens released a step.

    compute: (0 + 100)/100 = 1, 9, 4; memory: 0 is 20 blocks short, (100 - 0)/10 = 10 steps; others have room
    but replica 2 lacks 3 blocks' worth: (400 - 352)/50 is about 1.
    """
    rows = fleet(
        3,
        queued_prefill_tokens=[0, 800, 300],
        kv_used_blocks=[100, 0, 78],
        kv_released_per_iteration=[10, 50, 50],
    )
    router = make_router("sal", token_budget=100, terms=terms)
    assert decide(router, rows, prompt_tokens=100) == [expected]


def test_sal_breaks_ties_by_running_requests() -> None:
    rows = fleet(3, running=[5, 2, 2])
    assert decide(make_router("sal"), rows, prompt_tokens=100) == [1]


def test_sal_without_a_release_rate_avoids_full_replicas() -> None:
    rows = fleet(2, kv_used_blocks=[100, 50], queued_prefill_tokens=[0, 500])
    assert decide(make_router("sal"), rows, prompt_tokens=100) == [1]


def test_policy_form_gives_each_episode_its_own_memory() -> None:
    policy = HeuristicPolicy(make_router("round_robin"))
    policy.reset(2, seed=0)
    observation = {"request": np.zeros((2, REQUEST_FEATURES)), "replicas": np.stack([fleet(3), fleet(3)])}
    assert [policy.act(observation).tolist() for _ in range(4)] == [[0, 0], [1, 1], [2, 2], [0, 0]]
    policy.reset(2, seed=0)
    assert policy.act(observation).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("rund_robin", {}, "router = rund_robin: must be one of random, round_robin, "),
        ("power_of_two", {"d": 0}, "router.d = 0: must be at least 1"),
        ("power_of_two", {"k": 3}, "router power_of_two: .*unexpected keyword argument 'k'"),
        ("sal", {"terms": "both"}, "router.terms = both: must be one of max, sum, compute, memory"),
        ("sal", {"token_budget": 0}, "router.token_budget = 0: must be at least 1"),
    ],
)
def test_mistakes_are_named(name: str, parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_router(name, **parameters)
