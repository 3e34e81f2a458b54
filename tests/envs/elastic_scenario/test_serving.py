"""Requests of a scenario, served one after another by all instances: the slowest and the plainest manager."""

import numpy as np
import pytest

from servegym.envs.elastic_metrics import of_lines, summarise_elastic
from servegym.envs.elastic_scenario import load_elastic_scenario
from servegym.envs.sim.elastic.groups import nobody_runs
from servegym.envs.sim.elastic.manager import Manager
from servegym.envs.sim.elastic.queue import first_waiting
from servegym.envs.sim.elastic.state import NOBODY
from servegym.envs.workloads import Workload
from tests.envs.sim.elastic.test_simulate import do_decode, do_prefill


def one_by_one(state):
    if not nobody_runs(state):
        return
    waiting = first_waiting(state)
    if state.size[0]:
        do_decode(state, 0)
    elif waiting != NOBODY:
        do_prefill(state, [waiting], range(state.num_instances))


MANAGER = Manager("one by one", one_by_one)


def test_a_request_alone_takes_what_limits_refer_to_and_one_that_is_too_long_counts_as_late():
    scenario = load_elastic_scenario("mixed_8a800", ("scenario.fleet.decode_s=0.02",))
    lengths = np.array([[100, 100_000, 840_000], [3, 2, 1]])
    results = scenario.simulate(Workload("three", np.array([0.0, 50.0, 99.0]), *lengths), MANAGER)
    alone_s = results.first_token_s - results.arrival_s
    limit_s = scenario.ttft_limit_s(lengths[0])
    assert limit_s[0] == 15.0
    assert alone_s[1] == pytest.approx(limit_s[1] / 25)
    np.testing.assert_allclose((results.finish_s - results.first_token_s)[:2], [0.04, 0.02])
    assert results.rejected.tolist() == [False, False, True]
    summary = summarise_elastic(results, scenario)
    assert (summary["num_finished"], summary["num_rejected"], summary["attainment"]) == (2, 1, 2 / 3)
    assert summary["mean_output_s"] == pytest.approx(0.02)
    assert summary["mean_input_s"] == pytest.approx((alone_s[0] / 100 + alone_s[1] / 100_000) / 2)


def test_lines_are_kept_at_a_low_rate_and_not_at_a_high_one():
    ratios = []
    for rate_rps in (0.02, 20.0):
        scenario = load_elastic_scenario(
            "l_eval_8a800", (f"scenario.workload.rate_rps={rate_rps}", "scenario.workload.requests=150")
        )
        ratios.append(of_lines(scenario.simulate(scenario.traffic.test_workload(0), MANAGER), scenario))
    low, high = ratios
    assert max(low.values()) < 1
    assert high["total_s"] > 1 and high["input_s"] > 1
    assert high["output_s"] == pytest.approx(low["output_s"], rel=0.2)  # decodes are always alone
