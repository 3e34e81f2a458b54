"""Routing on any fleet: the plain one as `RoutingEpisodes` plays it, every other as `simulate_fleet` does."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from servegym.agents.heuristics.llumnix import llumnix_rebalancer
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.routing.episodes import RoutingEpisodes
from servegym.envs.routing.fleet_episodes import FleetRoutingEpisodes
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.cluster.plan import Failure, FleetPlan, Member, Migration
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.rebalancer import Rebalancer
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import OUTCOMES, Results
from servegym.envs.sim.llm.state import NOBODY
from servegym.envs.workloads import Workload
from tests.envs.sim.llm.cluster.cases import FleetCase, random_fleet
from tests.envs.sim.llm.cluster.test_against_reference import STEPS

FEATURES = frozenset(STEPS["roles"])
RESULTS = ("replica", "preemptions", "retries", "hit_tokens", "outcome")
TIMES = ("arrival_s", "scheduled_s", "first_token_s", "finish_s", "cancelled_s")

PLAIN = load_scenario("generated_8xh100", ("scenario.episode.requests=60", "scenario.fleet.replicas=3"))
SECOND = linear_iteration_cost(max_num_batched_tokens=64, max_num_seqs=8, overhead_s=1.0)
STEADY = Member(Engine(max_num_batched_tokens=64, max_num_seqs=8, num_kv_blocks=100), SECOND)
"""A replica that needs a second for every iteration."""

Choose = Callable[[FleetRoutingEpisodes, int], int]


def scenario_of(plan: FleetPlan, ttft_weight: float = 1.0, latency_weight: float = 0.0) -> Scenario:
    """A scenario with this fleet, and traffic that nobody asks for; what is to come is not charged."""
    scenario = copy.deepcopy(PLAIN)
    scenario.plan, scenario.num_replicas = plan, len(plan.replicas)
    objective = scenario.objective
    objective.ttft_weight, objective.latency_weight = ttft_weight, latency_weight
    objective.charge_expected_wait = False
    return scenario


def play(episodes: FleetRoutingEpisodes, choose: Choose) -> np.ndarray:
    """Plays all episodes to their ends; returns (K,) of returns."""
    returns = np.zeros(episodes.num_episodes)
    while not episodes.finished.all():
        actions = [0 if episodes.finished[k] else choose(episodes, k) for k in range(episodes.num_episodes)]
        episodes.step(np.array(actions))
        returns += episodes.rewards
    return returns


def by_draws(draws: list[float]) -> Choose:
    """One of the available replicas by the next number, as `FleetCase.choose` does."""
    numbers = iter(draws)

    def choose(episodes: FleetRoutingEpisodes, episode_id: int) -> int:
        available = np.flatnonzero(episodes.legal_actions()[episode_id])
        return int(available[int(next(numbers) * len(available))])

    return choose


def check_results(found: Results, expected: Results) -> None:
    """The same happened; rounding differs where replicas are looked at more often."""
    for name in RESULTS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name in TIMES:
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-12, err_msg=name
        )


def decides_something(case: FleetCase) -> bool:
    """Whether any request is ever routed, or else it is no episode."""
    routed = simulate_fleet(case.workload, Router("drawn", case.choose()), case.plan).replica >= 0
    return bool(routed.any())


@pytest.mark.parametrize("charge", [True, False])
def test_plain_fleet_is_that_of_routing_episodes(charge: bool) -> None:
    """The same observations, rewards and results for the same actions."""
    scenario = copy.deepcopy(PLAIN)
    scenario.objective.charge_expected_wait = charge
    scenario.objective.latency_weight = 0.3
    both = [kind(scenario, 3, 60, 4) for kind in (RoutingEpisodes, FleetRoutingEpisodes)]
    workloads = [scenario.traffic.train_workload(np.random.SeedSequence(seed)) for seed in range(3)]
    for episodes in both:
        for episode_id, workload in enumerate(workloads):
            episodes.begin(episode_id, workload)
    rng = np.random.default_rng(0)
    while not both[0].finished.all():
        for name in ("request", "replicas"):
            np.testing.assert_array_equal(getattr(both[0], name), getattr(both[1], name), err_msg=name)
        actions = rng.integers(3, size=3)
        for episodes in both:
            episodes.step(actions)
        np.testing.assert_allclose(both[0].rewards, both[1].rewards, rtol=1e-7, atol=1e-9)
        np.testing.assert_array_equal(both[0].finished, both[1].finished)
        np.testing.assert_array_equal(both[0].episodes.now_s, both[1].episodes.now_s)
    np.testing.assert_array_equal(both[0].replicas, both[1].replicas)
    for episode_id in range(3):
        check_results(both[1].results(episode_id), both[0].results(episode_id))


@pytest.mark.parametrize("seed", range(40))
def test_choices_have_the_results_of_the_simulator(seed: int) -> None:
    """Random fleets under random choices, and the return is minus the cost."""
    case = random_fleet(seed, FEATURES)
    if not decides_something(case):
        return
    ttft_weight, latency_weight = ((1.0, 0.0), (0.0, 1.0), (0.5, 0.25))[seed % 3]
    scenario = scenario_of(case.plan, ttft_weight, latency_weight)
    episodes = FleetRoutingEpisodes(scenario, 1, case.workload.num_requests)
    episodes.begin(0, case.workload)
    total = play(episodes, by_draws(case.draws))[0]
    expected = simulate_fleet(case.workload, Router("drawn", case.choose()), case.plan)
    check_results(episodes.results(0), expected)
    assert -total == pytest.approx(cost_of(episodes, ttft_weight, latency_weight), rel=1e-9, abs=1e-9)


def cost_of(episodes: FleetRoutingEpisodes, ttft_weight: float, latency_weight: float) -> float:
    """The cost of a finished episode by the formula of reward.py."""
    results = episodes.results(0)
    came = ~np.isnan(results.arrival_s)
    lost_s = episodes._state.clusters[0].journeys["over_s"]
    end_s = np.where(results.finished, results.finish_s, lost_s)
    first_s = np.where(np.isnan(results.first_token_s), end_s, results.first_token_s)
    costs = ttft_weight * (first_s - results.arrival_s) + latency_weight * (end_s - results.arrival_s)
    return float(costs[came].sum())


@pytest.mark.parametrize("seed", [0, 2, 6, 8, 10])
def test_requests_migrate_as_in_the_simulator(seed: int) -> None:
    """Random fleets with a random rule in Python."""
    case = random_fleet(seed, frozenset(STEPS["migration"]))
    plan = case.fast_plan([])
    episodes = FleetRoutingEpisodes(scenario_of(plan, 0.5, 0.5), 1, case.workload.num_requests)
    episodes.begin(0, case.workload)
    total = play(episodes, by_draws(case.draws))[0]
    expected = simulate_fleet(case.workload, Router("drawn", case.choose()), case.fast_plan([]))
    check_results(episodes.results(0), expected)
    np.testing.assert_array_equal(episodes.results(0).migrations, expected.migrations)
    assert -total == pytest.approx(cost_of(episodes, 0.5, 0.5), rel=1e-9, abs=1e-9)


def test_llumnix_moves_requests_as_in_the_simulator() -> None:
    """All requests are routed to replica 0, in two episodes side by side; some move to the other."""
    plan = FleetPlan([STEADY] * 2, migration=Migration(llumnix_rebalancer(20.0, 20.0), 2.0))
    workload = Workload("many", np.linspace(0.0, 5.0, 8), [30] * 8, [20] * 8)
    episodes = FleetRoutingEpisodes(scenario_of(plan), 2, 8)
    for k in range(2):
        episodes.begin(k, workload)
    play(episodes, lambda *_: 0)
    expected = simulate_fleet(workload, Router("first", lambda *_: 0), plan)
    assert expected.migrations.sum() > 2
    for k in range(2):
        check_results(episodes.results(k), expected)


def test_rebalancer_that_names_no_replica_is_refused() -> None:
    def choose(rows, parameters, memory, random_state, moves, orders) -> int:
        moves[0] = 0, 5
        return 1

    plan = FleetPlan([STEADY] * 2, migration=Migration(Rebalancer("lost", choose), 0.25))
    episodes = FleetRoutingEpisodes(scenario_of(plan), 1, 4)
    episodes.begin(0, FOUR)
    with pytest.raises(InputError, match=r"rebalancer 'lost': gave 1 moves, \[\[0, 5\]\]: must be at most 2"):
        play(episodes, lambda *_: 0)


@pytest.mark.parametrize("seed", range(6))
def test_any_number_of_episodes_gives_the_same(seed: int) -> None:
    """Episodes played side by side, each begun again when it is over, are those played one by one."""
    first = random_fleet(seed, FEATURES)
    cases = [replace(first, workload=later(first.workload, seconds)) for seconds in range(3)]
    assert all(decides_something(case) for case in cases)
    size, scenario = first.workload.num_requests, scenario_of(first.plan)
    alone = []
    for case in cases:
        episodes = FleetRoutingEpisodes(scenario, 1, size)
        episodes.begin(0, case.workload)
        choose, seen = by_draws(case.draws), []
        while not episodes.finished[0]:
            episodes.step(np.array([choose(episodes, 0)]))
            seen.append(seen_of(episodes, 0))
        alone.append(seen)
    together = FleetRoutingEpisodes(scenario, 3, size)
    chooses, found = [], [[], [], []]
    for k, case in enumerate(cases):
        together.begin(k, case.workload)
        chooses.append(by_draws(case.draws))
    while not together.finished.all():
        playing = np.flatnonzero(~together.finished).tolist()
        together.step(np.array([chooses[k](together, k) if k in playing else NOBODY for k in range(3)]))
        for k in playing:
            found[k].append(seen_of(together, k))
            if together.finished[k] and len(found[k]) == len(alone[k]):
                together.begin(k, cases[k].workload)
                chooses[k] = by_draws(cases[k].draws)
    for k in range(3):
        np.testing.assert_equal(found[k], alone[k] * 2)


def seen_of(episodes: FleetRoutingEpisodes, k: int) -> list[np.ndarray]:
    """What an agent gets of an episode."""
    return [array[k].copy() for array in (episodes.request, episodes.replicas, episodes.rewards)]


def later(workload: Workload, seconds: int) -> Workload:
    """The same requests at other places in the plan of the fleet."""
    return replace(workload, arrival_s=workload.arrival_s + seconds)


FOUR = Workload(
    "four", [0.0, 0.5, 0.75, 1.0], [4] * 4, [2, 10, 10, 3], cancel_after_s=[np.inf, np.inf, np.inf, 1.5]
)
"""The first two on replicas of their own, the third behind the second, the last cancelled at 2.5 s."""


@pytest.mark.parametrize(
    ("weights", "on_failure", "costs"),
    [
        ((1.0, 0.0), "lost", [0.5, 0.5, 0.75, 1.0 + 1.0 + 1.5 + 1.0 - 1.75]),
        ((0.0, 1.0), "lost", [0.5, 0.5, 0.75, 2.0 + 1.75 + 1.5 + 2.0 - 1.75]),
        ((1.0, 0.0), "reroute", [0.5, 0.5, 0.75, 1.0 + 1.75 + 1.5 + 1.0 - 1.75, 0.0, 1.75 + 1.75]),
    ],
)
def test_what_requests_cost_that_do_not_finish(
    weights: tuple[float, float], on_failure: str, costs: list[float]
) -> None:
    """Closed form. Replica 1 fails at 2.25 s: the requests there are lost, or start anew at 3 s elsewhere.

    A first token that was lost is none. The last request leaves with the iteration that ends at 3 s.
    """
    plan = FleetPlan([STEADY] * 2, failures=[Failure(1, 2.25)], on_failure=on_failure)
    episodes = FleetRoutingEpisodes(scenario_of(plan, *weights), 1, 4)
    episodes.begin(0, FOUR)
    found = []
    for action in [0, 1, 1, 0, 0, 0][: len(costs)]:
        assert not episodes.finished[0]
        episodes.step(np.array([action]))
        found.append(-episodes.rewards[0])
    assert episodes.finished[0]
    np.testing.assert_allclose(found, costs, rtol=1e-12, atol=1e-12)
    outcomes = [OUTCOMES[number] for number in episodes.results(0).outcome]
    unlucky = "lost" if on_failure == "lost" else "finished"
    assert outcomes == ["finished", unlucky, unlucky, "cancelled"]


def test_waiting_before_the_first_decision_is_charged_with_it() -> None:
    """Replica 0 comes at 3 s; nobody can be asked before."""
    plan = FleetPlan([STEADY], failures=[Failure(0, 0.0, 3.0)])
    episodes = FleetRoutingEpisodes(scenario_of(plan), 1, 4)
    episodes.begin(0, Workload("one", [1.0], [4], [2]))
    assert episodes.episodes[0].now_s == 3.0
    episodes.step(np.array([0]))
    assert episodes.rewards[0] == pytest.approx(-(2.0 + 1.0), rel=1e-12)


def test_expected_waits_do_not_change_the_return() -> None:
    """They are charged when they begin, also on replicas that differ, and with roles."""
    for seed in (1, 4, 5):
        case = random_fleet(seed, FEATURES)
        totals, played = [], []
        for charge in (False, True):
            scenario = scenario_of(case.plan)
            scenario.objective.charge_expected_wait = charge
            scenario.prefill_s_per_token = 0.1
            episodes = FleetRoutingEpisodes(scenario, 1, case.workload.num_requests)
            episodes.begin(0, case.workload)
            choose, rewards = by_draws(case.draws), []
            while not episodes.finished[0]:
                episodes.step(np.array([choose(episodes, 0)]))
                rewards.append(episodes.rewards[0])
            totals.append(sum(rewards))
            played.append(rewards)
        assert totals[1] == pytest.approx(totals[0], rel=1e-9)
        assert played[0] != pytest.approx(played[1], rel=1e-3)


def test_fleets_are_given_more_room() -> None:
    """More old states to remember at a time than there is room for at first."""
    plan = FleetPlan([STEADY] * 2, state_delay_s=10.0)
    workload = Workload("many", np.linspace(0.0, 5.0, 60), [4] * 60, [2] * 60)
    draws = list(np.random.default_rng(0).random(60))
    episodes = FleetRoutingEpisodes(scenario_of(plan), 1, 60)
    episodes.begin(0, workload)
    play(episodes, by_draws(draws))
    assert len(episodes._state.clusters[0].look_s) > 16
    case = FleetCase(workload, plan, draws, 0, [1.0, 0.0, 0.0])
    check_results(episodes.results(0), simulate_fleet(workload, Router("drawn", case.choose()), plan))


@pytest.mark.parametrize("action", [-1, 1, 2, 10**6])
def test_illegal_action_is_refused_and_changes_nothing(action: int) -> None:
    """In no episode: also where only the second one's is illegal."""
    plan = FleetPlan([STEADY] * 2, failures=[Failure(1, 0.75)], dispatch_latency_s=0.1)
    episodes = FleetRoutingEpisodes(scenario_of(plan), 2, 4)
    for k in range(2):
        episodes.begin(k, FOUR)
    episodes.step(np.zeros(2, np.int64))
    episodes.step(np.zeros(2, np.int64))
    before = [seen_of(episodes, k) for k in range(2)]
    message = f"action {action} in environment 1, decision 2: must be one of the available replicas 0$"
    with pytest.raises(ValueError, match=message):
        episodes.step(np.array([0, action]))
    np.testing.assert_equal([seen_of(episodes, k) for k in range(2)], before)
    play(episodes, lambda *_: 0)
    expected = simulate_fleet(FOUR, Router("first", lambda *_: 0), plan)
    for k in range(2):
        check_results(episodes.results(k), expected)


def test_an_episode_has_a_decision() -> None:
    plan = FleetPlan([STEADY], scaling=[(0.0, 0)])
    episodes = FleetRoutingEpisodes(scenario_of(plan), 1, 4)
    with pytest.raises(InputError, match="workload 'four': no replica is ever available for any of its 4"):
        episodes.begin(0, FOUR)


def test_longer_episodes_than_announced_are_refused() -> None:
    episodes = FleetRoutingEpisodes(scenario_of(FleetPlan([STEADY])), 1, 3)
    with pytest.raises(InputError, match="workload 'four': 4 requests, must be at most 3 in an episode"):
        episodes.begin(0, FOUR)
