"""The solver against closed forms, brute force, a witness by dense linear algebra, and simulation."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from servegym.agents.smdp import (
    BatchTablePolicy,
    control_limit,
    evaluate,
    greedy,
    simulate_batching,
    solve,
    static,
)
from servegym.agents.smdp.model import Model, most_queue
from servegym.agents.smdp.tail import Tail
from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario, load_dynamic_batching

TINY = DynamicBatchingScenario(
    "tiny",
    rate_rps=1.2,
    latency_s=(0.5, 0.8, 1.0),
    energy_j=(3.0, 4.0, 4.5),
    response_weight=1.0,
    power_weight=0.3,
)
GOOGLENET = load_dynamic_batching("googlenet_p4")


def at_load(scenario: DynamicBatchingScenario, load: float, **changes: float) -> DynamicBatchingScenario:
    """At a share of its largest rate."""
    return replace(scenario, rate_rps=load * scenario.max_batch / scenario.latency_s[-1], **changes)


def tables(max_batch: int, longest: int) -> itertools.product:
    """All policies that treat queues of `longest` and more alike, and then serve."""
    choices = [range(min(queue, max_batch) + 1) for queue in range(longest)]
    return itertools.product(*choices, range(1, max_batch + 1))


@pytest.mark.parametrize("power_weight", [0.0, 0.3, 1.5])
def test_no_policy_of_a_small_server_is_better(power_weight: float) -> None:
    """Each of the 72 policies that treat 4 requests and more alike, exactly; the optimum is one of them."""
    scenario = replace(TINY, power_weight=power_weight)
    best = solve(scenario, max_queue=24)
    costs = {table: evaluate(scenario, table).cost for table in tables(3, 4)}
    assert len(costs) == 72
    assert min(costs.values()) == pytest.approx(best.cost, rel=1e-7)
    assert evaluate(scenario, best.sizes).cost == pytest.approx(best.cost, rel=1e-7)


def dense_policy_iteration(scenario: DynamicBatchingScenario, longest: int) -> tuple[float, np.ndarray]:
    """Howard's policy iteration of the semi-Markov process itself; who does not fit is turned away.

    Average cost, and batch sizes of queues 0 to `longest`. Written from the model alone.
    """
    rate = scenario.rate_rps
    options: list[list[tuple[int, float, float, np.ndarray]]] = []
    for queue in range(longest + 1):
        here = []
        for size in (0, *range(scenario.min_batch, min(queue, scenario.max_batch) + 1)):
            following = np.zeros(longest + 1)
            if size == 0:
                seconds, cost = 1 / rate, scenario.response_weight / rate * queue / rate
                following[min(queue + 1, longest)] = 1.0
            else:
                seconds = scenario.latency_s[size - 1]
                mean = rate * seconds
                present_s = queue * seconds + mean * seconds / 2
                cost = scenario.response_weight / rate * present_s
                cost += scenario.power_weight * scenario.joules[size - 1]
                probability = np.exp(-mean)
                for count in range(longest - (queue - size)):
                    following[queue - size + count] = probability
                    probability *= mean / (count + 1)
                following[longest] = 1 - following[:longest].sum()
            here.append((size, seconds, cost, following))
        options.append(here)
    chosen = [len(here) - 1 for here in options]  # the largest batch
    while True:
        picked = [here[index] for here, index in zip(options, chosen, strict=True)]
        # cost - g seconds + P h - h = 0, h(0) = 0: unknowns are g and h(1), h(2), ...
        system = np.stack([following for *_, following in picked]) - np.eye(longest + 1)
        system[:, 0] = [-seconds for _, seconds, _, _ in picked]
        solved = np.linalg.solve(system, [-cost for _, _, cost, _ in picked])
        average, values = solved[0], np.concatenate([[0.0], solved[1:]])
        better = []
        for here, old in zip(options, chosen, strict=True):
            scores = [cost - average * seconds + following @ values for _, seconds, cost, following in here]
            better.append(old if scores[old] <= min(scores) + 1e-12 else int(np.argmin(scores)))
        if better == chosen:
            return average, np.array([size for size, *_ in picked])
        chosen = better


@pytest.mark.parametrize("load", [0.2, 0.5])
@pytest.mark.parametrize("power_weight", [0.0, 0.3])
@pytest.mark.parametrize("min_batch", [1, 2])
def test_policy_iteration_finds_the_same(load: float, power_weight: float, min_batch: int) -> None:
    """Loads at which 80 are never reached, so that turning away does not matter.

    Of actions that are equally good either may be taken: policies are compared by what they cost.
    """
    scenario = replace(at_load(TINY, load, power_weight=power_weight), min_batch=min_batch)
    found = solve(scenario, max_queue=12)
    average, sizes = dense_policy_iteration(scenario, 80)
    assert found.cost == pytest.approx(average, rel=2e-9)
    assert evaluate(scenario, sizes[:20]).cost == pytest.approx(found.cost, rel=2e-9)


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9, 0.97])
def test_one_at_a_time_is_the_queue_of_pollaczek_and_khinchine(load: float) -> None:
    """M/D/1: mean response l + lambda l^2 / (2 (1 - rho)), power load * e / l, a quadratic value."""
    scenario = DynamicBatchingScenario("md1", load / 0.25, (0.25,), (2.0,), 1, 1.0, 0.5)
    found = solve(scenario)
    response_s = 0.25 + load * 0.25 / (2 * (1 - load))
    assert found.exact.response_s == pytest.approx(response_s, rel=1e-9)
    assert found.cost == pytest.approx(response_s + 0.5 * load * 8.0, rel=1e-7)
    assert found.control_limit == 1
    deep = solve(scenario, max_queue=20).values
    np.testing.assert_allclose(np.diff(deep[1:], 2), 0.25 * 0.25 / load / (1 - load), rtol=1e-4)


@pytest.mark.parametrize("load", [0.3, 0.7, 0.95])
def test_cost_is_what_the_policy_costs_exactly(load: float) -> None:
    """Solver and stationary distribution share no truncation; with their own they agree to the span."""
    found = solve(at_load(GOOGLENET, load))
    assert found.exact.cost == pytest.approx(found.cost, rel=1.1e-9)
    assert found.span <= 1e-9 and found.doubling_change <= 1e-6
    assert found.max_queue == 64 and found.tail_share < 0.01


def test_the_tail_is_charged_for_what_it_costs() -> None:
    """At 95 % of the largest rate queues are longer than the table in 3 % of all decisions."""
    scenario = at_load(GOOGLENET, 0.95, power_weight=0.0)
    short, long = (solve(scenario, max_queue) for max_queue in (48, 256))
    assert short.tail_share > 0.01 > 1e-9 > long.tail_share
    assert short.cost == pytest.approx(long.cost, rel=1e-6)
    np.testing.assert_array_equal(short.sizes[:40], long.sizes[:40])


def test_truncation_that_matters_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what does not fit is forgotten, waiting for ever seems best; twice as many states differ."""
    scenario = at_load(GOOGLENET, 0.8)
    monkeypatch.setattr(Tail, "of", lambda scenario: Tail(scenario.max_batch, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match=r"max_queue = 64: doubling it changes the cost by (1|0.[1-9])"):
        solve(scenario, truncation=0.01)


@pytest.mark.parametrize("load", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("power_weight", [0.0, 1e-3])
def test_never_worse_than_simple_policies(load: float, power_weight: float) -> None:
    scenario = at_load(GOOGLENET, load, power_weight=power_weight)
    found = solve(scenario)
    sizes = range(1, scenario.max_batch + 1)
    rivals = [
        greedy(scenario),
        *(static(scenario, size) for size in sizes),
        *(control_limit(scenario, limit) for limit in sizes),
    ]
    costs = [evaluate(scenario, rival).cost for rival in rivals]
    assert found.exact.cost <= min(costs) * (1 + 1e-9)
    if found.control_limit is not None:
        assert found.exact.cost == pytest.approx(
            evaluate(scenario, control_limit(scenario, found.control_limit)).cost, rel=1e-7
        )


def test_a_dearer_watt_saves_power_and_costs_time() -> None:
    """The optimum grows with the weight, at a falling pace; a higher price never buys more of it."""
    weights = (0.0, 1e-4, 5e-4, 2e-3, 1e-2)
    found = [solve(replace(GOOGLENET, power_weight=weight)) for weight in weights]
    response_s = [each.exact.response_s for each in found]
    power_w = [each.exact.power_w for each in found]
    assert np.all(np.diff(response_s) > -1e-9)
    assert np.all(np.diff(power_w) < 1e-6)
    assert response_s[-1] > 1.5 * response_s[0] and power_w[-1] < 0.95 * power_w[0]
    slopes = np.diff([each.cost for each in found]) / np.diff(weights)
    assert np.all(slopes > 0) and np.all(np.diff(slopes) < 0)


@pytest.mark.compiled
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_simulation_costs_what_the_solver_says(load: float) -> None:
    """Within 0.5 %: 4 million requests."""
    scenario = at_load(GOOGLENET, load, requests=62_500)
    found = solve(scenario)
    played = simulate_batching(BatchTablePolicy("optimal", found.sizes, scenario), scenario, num_episodes=64)
    assert played.cost == pytest.approx(found.cost, rel=0.005)
    assert abs(played.cost - found.cost) < 4 * played.cost_error
    assert played.response_s == pytest.approx(found.exact.response_s, rel=0.01)
    assert played.power_w == pytest.approx(found.exact.power_w, rel=0.005)
    assert played.mean_batch == pytest.approx(found.exact.mean_batch, rel=0.005)


def test_what_has_no_optimum_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"scenario.rate_rps = 3: must be below 3, the most that the server"):
        solve(replace(TINY, rate_rps=3.0))
    with pytest.raises(InputError, match=r"scenario.response_weight = 0: must be above 0"):
        solve(replace(TINY, response_weight=0.0))
    with pytest.raises(InputError, match=r"max_queue = 2: must be at least max_batch, 3"):
        solve(TINY, max_queue=2)
    with pytest.raises(InputError, match=r"max_queue = 1000000: must be at most \d+ with batches of 1 to 3"):
        solve(TINY, max_queue=1_000_000)
    with pytest.raises(InputError, match=r"span = 0: must be between 0 and 1"):
        solve(TINY, span=0)
    with pytest.raises(InputError, match=r"max_queue = 6: doubling it changes the cost by .* at most 1e-15"):
        solve(TINY, truncation=1e-15)


def test_rates_of_all_sizes_count() -> None:
    """Where a batch of 2 is the fastest way, the largest rate is its own, and long queues are served so."""
    scenario = DynamicBatchingScenario("hump", 1.0, (1.0, 1.2, 3.0))
    with pytest.raises(InputError, match=r"rate_rps = 1.7: must be below 1.66667"):
        solve(replace(scenario, rate_rps=1.7))
    found = solve(replace(scenario, rate_rps=1.5), max_queue=30)
    assert found.sizes[-1] == 2 and found.exact.cost == pytest.approx(found.cost, rel=1e-7)


def test_long_queues_are_served_by_batches_that_are_allowed() -> None:
    """Alone is the fastest way, but at least 2 must be taken: 2, 3 and 4 are as fast, 2 wait the least."""
    scenario = DynamicBatchingScenario("concave", 0.5, (1.0, 3.0, 4.5, 6.0), min_batch=2)
    found = solve(scenario, max_queue=16)
    assert found.sizes[-1] == 2 and set(found.sizes) <= {0, 2, 3, 4}
    average, sizes = dense_policy_iteration(scenario, 200)
    assert found.cost == pytest.approx(average, rel=2e-9)
    assert evaluate(scenario, sizes[:20]).cost == pytest.approx(found.exact.cost, rel=2e-9)


def test_limit_of_memory_counts_the_transitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with the longest queue comes close to the limit and keeps it."""
    monkeypatch.setattr("servegym.agents.smdp.model.MOST_TRANSITIONS", 10_000)
    scenario = replace(TINY, min_batch=2)
    assert 9_000 < Model.of(scenario, most_queue(scenario)).transitions.nnz <= 10_000
