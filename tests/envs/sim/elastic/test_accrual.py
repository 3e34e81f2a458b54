"""What a run costs, against the times at which requests were served."""

import numpy as np
import pytest

from servegym.costmodels.native.structs import fields_of
from servegym.envs.sim.elastic.accrual import FIRST_TOKEN_S, INPUT, LATE, OUTPUT, PER_TOKEN_S, WHOLE
from servegym.envs.sim.elastic.actions import decode, pause, prefill, reject
from servegym.envs.sim.elastic.groups import is_at_rest
from servegym.envs.sim.elastic.loop import run
from servegym.envs.sim.elastic.manager import Manager, compiled_manage
from servegym.envs.sim.elastic.queue import first_waiting, waits
from servegym.envs.sim.elastic.setup import Simulation
from servegym.envs.sim.elastic.simulate import check, results_of
from servegym.envs.sim.elastic.state import NOBODY
from tests.envs.sim.elastic.fleets import fleet, workload

REQUESTS = ((0.0, 100, 3), (0.1, 50, 1), (0.2, 60, 4), (0.3, 5000, 5), (0.4, 30, 2))
"""The third is rejected by the manager, the fourth is longer than the fleet."""


@compiled_manage
def one_by_one(state):
    """Serves the first of the queue alone, on one instance, and never the third."""
    if waits(state, 2):
        reject(state, 2)
    if is_at_rest(state, 0):
        decode(state, 0, 0, 0.0, 128, True)
    elif state.runs_for[0] == NOBODY and first_waiting(state) != NOBODY:
        state.integers[0] = first_waiting(state)
        prefill(state, state.integers[:1], 1, state.integers[1:2], 1, 0.0, False)


def served(**limits: float) -> Simulation:
    manager = Manager("one by one", one_by_one, integers_for=lambda *_: 2)
    simulation = Simulation(fleet(2, 1000), manager, len(REQUESTS))
    simulation.begin(workload(*REQUESTS))
    for name, limit in limits.items():
        column = {"first_token_s": FIRST_TOKEN_S, "per_token_s": PER_TOKEN_S}[name]
        fields_of(simulation.state).limits[:, column] = limit
    assert run(simulation.state)
    check(simulation)
    return simulation


def test_costs_are_sums_over_requests_and_rates_are_zero_in_the_end() -> None:
    simulation = served()
    results, state = results_of(simulation), simulation.state
    ended = results.finished
    assert ended.tolist() == [True, True, False, False, True]
    total = (results.finish_s - results.arrival_s) / (results.prompt_tokens + results.output_tokens)
    first = (results.first_token_s - results.arrival_s) / results.prompt_tokens
    output = (results.finish_s - results.first_token_s) / np.maximum(results.output_tokens - 1, 1)
    assert state.costs[WHOLE] == pytest.approx(total[ended].sum())
    assert state.costs[INPUT] == pytest.approx(first[ended].sum())
    assert state.costs[OUTPUT] == pytest.approx(output[ended].sum())
    assert state.costs[LATE] == 2
    np.testing.assert_allclose(state.rates, 0.0, atol=1e-15)


def test_a_request_is_late_once_by_its_first_token_or_by_the_others() -> None:
    results = results_of(served())
    first_s = (results.first_token_s - results.arrival_s)[results.finished]
    token_s = ((results.finish_s - results.first_token_s) / np.maximum(results.output_tokens - 1, 1))[
        results.finished
    ]
    rejected = 2
    limits = ((0.0, 0.0), (0.0, np.inf), (np.inf, 0.0), (float(np.median(first_s)), 0.01))
    counts = []
    for first_limit, token_limit in limits:
        late = (first_s > first_limit) | (token_s > token_limit)
        costs = served(first_token_s=first_limit, per_token_s=token_limit).state.costs
        assert costs[LATE] == rejected + late.sum()
        counts.append(int(late.sum()))
    assert counts == [3, 3, 2, 2]


@compiled_manage
def stop_after_prefill(state):
    """Prefills the first request, and then rejects it."""
    if is_at_rest(state, 0):
        pause(state, 0)
        reject(state, 0)
    elif waits(state, 0):
        prefill(state, state.integers[:1], 1, state.integers[:1], 1, 0.0, False)


@pytest.mark.parametrize("limit_s", [0.0, np.inf])
def test_a_request_that_is_rejected_after_its_first_token_is_late_once(limit_s: float) -> None:
    manager = Manager("stop", stop_after_prefill, integers_for=lambda *_: 1)
    simulation = Simulation(fleet(2, 1000), manager, 1)
    simulation.begin(workload((0.0, 100, 3)))
    fields_of(simulation.state).limits[:, FIRST_TOKEN_S] = limit_s
    assert run(simulation.state)
    check(simulation)
    assert simulation.state.costs[LATE] == 1
    np.testing.assert_allclose(simulation.state.rates, 0.0, atol=1e-15)
