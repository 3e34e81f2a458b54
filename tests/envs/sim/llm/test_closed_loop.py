"""The closed loop: clients never idle, and one that offers what a fixed workload did has its times."""

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.closed_loop import simulate_closed_loop
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload

LIMITS = {"max_num_batched_tokens": 64, "max_num_seqs": 4}
# Powers of two: sums are exact in any order, so that a replayed arrival meets the same iteration.
COST = linear_iteration_cost(**LIMITS, overhead_s=2**-6, per_token_s=2**-10, per_kv_token_s=2**-16)
ENGINE = Engine(**LIMITS, num_kv_blocks=200)


def test_one_client_sends_one_request_after_the_other() -> None:
    results = simulate_closed_loop(np.full(3, 20), np.full(3, 5), num_clients=1, engine=ENGINE, cost=COST)
    prefill = 2**-6 + 20 * 2**-10
    each = prefill + sum(2**-6 + 2**-10 + 2**-16 * kv for kv in range(20, 24))
    assert results.arrival_s == pytest.approx([0.0, each, 2 * each])
    assert results.finish_s == pytest.approx([each, 2 * each, 3 * each])
    assert results.first_token_s - results.arrival_s == pytest.approx(np.full(3, prefill))


@pytest.mark.parametrize("num_clients", [3, 6])
def test_the_arrivals_it_makes_replayed_as_a_workload_give_the_same_times(num_clients: int) -> None:
    rng = np.random.default_rng(1)
    prompts, outputs = rng.integers(1, 90, 60), rng.integers(1, 40, 60)
    results = simulate_closed_loop(prompts, outputs, num_clients=num_clients, engine=ENGINE, cost=COST)
    workload = Workload("replay", results.arrival_s, prompts, outputs)
    replayed = simulate(workload, make_router("round_robin"), num_replicas=1, engine=ENGINE, cost=COST)
    assert replayed.finish_s == pytest.approx(results.finish_s)
    assert replayed.first_token_s == pytest.approx(results.first_token_s)
    for now in np.unique(results.arrival_s):
        present = (results.arrival_s <= now) & (results.finish_s > now)
        assert present.sum() == num_clients or (results.arrival_s > now).sum() == 0


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(InputError, match="num_kv_blocks is 200, must be at least 251"):
        simulate_closed_loop(np.array([4000]), np.array([2]), num_clients=1, engine=ENGINE, cost=COST)
    with pytest.raises(InputError, match="num_clients is 0"):
        simulate_closed_loop(np.array([4]), np.array([2]), num_clients=0, engine=ENGINE, cost=COST)
