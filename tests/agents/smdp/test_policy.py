"""Tables of batch sizes as policies, and their exact evaluation."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.agents.smdp import (
    BatchTablePolicy,
    cheapest,
    control_limit,
    control_limit_of,
    evaluate,
    greedy,
    simulate_batching,
    static,
)
from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario
from servegym.envs.dynamic_batching.vector import DynamicBatchingVectorEnv

TINY = DynamicBatchingScenario(
    "tiny", 1.2, latency_s=(0.5, 0.8, 1.0, 1.3), energy_j=(3.0, 4.0, 4.5, 5.0), power_weight=0.3, requests=200
)


def test_tables() -> None:
    assert greedy(TINY).tolist() == [0, 1, 2, 3, 4]
    assert greedy(replace(TINY, min_batch=3)).tolist() == [0, 0, 0, 3, 4]
    assert static(TINY, 3).tolist() == [0, 0, 0, 3]
    assert control_limit(TINY, 3).tolist() == [0, 0, 0, 3, 4]
    assert control_limit(TINY, 6).tolist() == [0, 0, 0, 0, 0, 0, 4]


def test_a_control_limit_is_recognised() -> None:
    for limit in (1, 2, 4, 6):
        assert control_limit_of(control_limit(TINY, limit), 4) == limit
    assert control_limit_of([0, 0, 2, 3, 3], 4) is None
    assert control_limit_of([0, 1, 0, 3, 4], 4) is None
    assert control_limit_of([0, 0], 4) is None


def test_the_policy_plays_every_environment_to_its_end() -> None:
    """Its actions are legal whatever it meets, at the end too, where nobody is left to wait for."""
    for sizes in (greedy(TINY), static(TINY, 4), control_limit(TINY, 6)):
        env = DynamicBatchingVectorEnv(5, TINY, copy=False)
        policy = BatchTablePolicy("table", sizes, TINY)
        observation, _ = env.reset(seed=0)
        policy.reset(5, 0)
        ends = 0
        while ends < 10:
            observation, *_, infos = env.step(policy.act(observation))
            ends += int(infos["_final_info"].sum()) if infos else 0


def test_static_batches_by_hand() -> None:
    """Of two, nearly alone: a request waits for the next gap or not at all, then for its batch."""
    scenario = replace(TINY, rate_rps=1e-3)
    found = evaluate(scenario, static(scenario, 2))
    assert found.response_s == pytest.approx(0.5 * 1e3 + 0.8, rel=1e-3)
    assert found.power_w == pytest.approx(0.5e-3 * 4.0, rel=1e-3)
    assert found.mean_batch == pytest.approx(2.0)
    assert found.queue_shares[:3].sum() == pytest.approx(1.0, rel=1e-5)


def test_a_policy_that_cannot_keep_up_costs_without_end() -> None:
    """Batches of one serve 2 a second; below that the cost is finite."""
    assert np.isfinite(evaluate(replace(TINY, rate_rps=1.99), static(TINY, 1)).cost)
    found = evaluate(replace(TINY, rate_rps=2.0), static(TINY, 1))
    assert found.cost == found.response_s == np.inf
    assert found.power_w == 3.0 / 0.5
    assert evaluate(TINY, [0]).cost == np.inf
    with pytest.raises(
        InputError, match=r"scenario.rate_rps = 1.99999: too near to what the policy can serve, 2"
    ):
        evaluate(replace(TINY, rate_rps=1.99999), static(TINY, 1))


def test_cheapest_leaves_out_what_cannot_keep_up() -> None:
    """Of the others it is the least of all; batches of one serve 2 a second, too near to 1.999 to compare."""
    busy = replace(TINY, rate_rps=1.999)
    costs = {size: evaluate(busy, static(busy, size)).cost for size in (2, 3, 4)}
    best = min(costs, key=lambda size: costs[size])
    parameter, sizes = cheapest(busy, static) or (0, np.zeros(1))
    assert parameter == best and sizes.tolist() == static(busy, best).tolist()
    assert cheapest(replace(TINY, rate_rps=3.07), static) is None  # of 4 / 1.3 = 3.077 at most
    slow = replace(TINY, latency_s=(0.5, 0.8, 1.0, 4.0), rate_rps=1.5)
    assert cheapest(slow, control_limit) is None  # all end in batches of 4, one a second
    assert (cheapest(slow, static) or (0,))[0] in (1, 2, 3)
    assert (cheapest(replace(TINY, min_batch=3), static) or (0,))[0] in (3, 4)


@pytest.mark.compiled
def test_evaluation_is_what_simulation_gives() -> None:
    scenario = replace(TINY, requests=20_000, min_batch=2)
    for sizes in (greedy(scenario), static(scenario, 3), [0, 0, 2, 2, 3]):
        expected = evaluate(scenario, sizes)
        found = simulate_batching(BatchTablePolicy("table", sizes, scenario), scenario, num_episodes=32)
        assert found.cost == pytest.approx(expected.cost, rel=0.005)
        assert abs(found.cost - expected.cost) < 4 * found.cost_error


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([0, 2], "batch sizes: 2 with 1 requests waiting, must be 0 or from 1 to 1"),
        ([0, 1, 2, 3, 4, 5], "batch sizes: 5 with 5 requests waiting, must be 0 or from 1 to 4"),
        ([0, -1], "batch sizes: -1 with 1"),
        ([], "have shape (0,)"),
    ],
)
def test_tables_that_cannot_be_followed_are_refused(sizes: list[int], said: str) -> None:
    with pytest.raises(InputError) as raised:
        evaluate(TINY, sizes)
    assert said in str(raised.value)
    with pytest.raises(InputError, match=r"batch size 5: must be from 1 to 4"):
        static(TINY, 5)
    with pytest.raises(InputError, match=r"control limit 0: must be at least min_batch, 1"):
        control_limit(TINY, 0)
