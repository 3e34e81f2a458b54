"""The search for goodput: closed forms of a single server, and what it refuses."""

import math

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.metrics import SloLimits, attains_slo
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import generate
from servegym.envs.workloads.lengths import ConstantLengths
from servegym.experiments.evaluation.goodput import find_goodput, largest_rate, routing_attainment


@pytest.mark.parametrize("guess", [1e-3, 3.0, 5e4])
def test_search_meets_a_known_threshold_from_any_guess(guess: float) -> None:
    found = find_goodput(
        lambda rate, seed: math.exp(-rate / 100), guess=guess, share=0.9, tolerance=1e-4
    ).rates
    assert found[0] == pytest.approx(-100 * math.log(0.9), rel=1e-4)


def test_answer_holds_and_is_within_the_tolerance() -> None:
    rate = largest_rate(lambda rate: rate <= 7.3, 1.0, 0.05)
    assert rate <= 7.3 < rate * 1.05


def test_rate_is_zero_where_even_a_lone_request_is_late() -> None:
    assert largest_rate(lambda rate: False, 1.0) == 0.0


def test_seeds_give_an_interval() -> None:
    found = find_goodput(lambda rate, seed: float(rate <= 10 + seed), guess=10, seeds=range(8)).estimate
    assert 10 < found.low < found.iqm < found.high < 17


def test_limits_that_nothing_breaks_have_no_estimate() -> None:
    found = find_goodput(lambda rate, seed: 1.0, guess=1.0)
    assert found.rates.tolist() == [math.inf]
    with pytest.raises(InputError, match="even if all come at once"):
        _ = found.estimate


@pytest.mark.parametrize(
    "bad, what",
    [({"share": 1.5}, "share = 1.5"), ({"seeds": ()}, "seeds"), ({"guess": 0.0}, "first rate = 0.0")],
)
def test_bad_settings_are_refused(bad: dict[str, object], what: str) -> None:
    settings = {"guess": 1.0, **bad}
    with pytest.raises(InputError, match=what):
        find_goodput(lambda rate, seed: 1.0, **settings)  # type: ignore[arg-type]


def share_that_waits_at_most(limit_s: float, service_s: float, rate: float) -> float:
    """M/D/1: P(W <= t) = (1 - rho) sum_k (rho (k - t/D))^k / k! exp(-rho (k - t/D)), Erlang 1909."""
    load, times = rate * service_s, limit_s / service_s
    terms = [
        (load * (k - times)) ** k / math.factorial(k) * math.exp(-load * (k - times))
        for k in range(int(times) + 1)
    ]
    return (1 - load) * sum(terms)


def largest_in_closed_form(limit_s: float, service_s: float, share: float) -> float:
    return largest_rate(
        lambda rate: rate * service_s < 1 and share_that_waits_at_most(limit_s, service_s, rate) >= share,
        0.1 / service_s,
        1e-6,
    )


@pytest.mark.compiled
@pytest.mark.parametrize("waits, share", [(1.5, 0.9), (4.0, 0.9), (4.0, 0.99)])
def test_goodput_of_m_d_1_is_that_of_the_closed_form(waits: float, share: float) -> None:
    service_s = 0.02
    engine = Engine(max_num_batched_tokens=8, max_num_seqs=1, num_kv_blocks=8)
    cost = linear_iteration_cost(max_num_batched_tokens=8, max_num_seqs=1, overhead_s=service_s)
    limits = SloLimits((waits + 1) * service_s, math.inf)  # TTFT is wait and service

    def attainment(rate: float, seed: int) -> float:
        workload = generate("poisson", rate, 1, 60_000, ConstantLengths(1, 1), np.random.SeedSequence(seed))
        router = make_router("round_robin")
        results = simulate(workload, router, num_replicas=1, engine=engine, cost=cost)
        return float(attains_slo(results, limits).mean())

    found = find_goodput(attainment, guess=10.0, seeds=range(4), share=share, tolerance=1e-3).estimate
    assert found.iqm == pytest.approx(largest_in_closed_form(waits * service_s, service_s, share), rel=0.02)


@pytest.mark.compiled
def test_goodput_of_a_scenario_falls_with_its_limits() -> None:
    goodputs = []
    for ttft_s in (0.2, 1.0):
        scenario = load_scenario(
            "generated_1xh100",
            ("scenario.workload.test_s=120", f"scenario.objective.slo_ttft_s={ttft_s}"),
        )
        attainment = routing_attainment(scenario, make_router("round_robin"))
        found = find_goodput(attainment, guess=10.0)
        rate = float(found.rates[0])
        assert attainment(rate, 0) >= 0.9 > attainment(rate * 1.01, 0)
        goodputs.append(rate)
    assert goodputs[0] < goodputs[1]
