"""Degenerate scenarios are textbook queues, whose waits have closed forms.

One iteration takes `STEP_S` whatever is in it and a request has one prompt token, so a request with o
output tokens takes o iterations: constant o gives deterministic service, geometric o with a large mean
nearly exponential. `max_num_seqs` is the number of servers. An arrival waits for the iteration in flight,
half a step in the mean, which is far below the tolerance of 1 %.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.agents.schedulers import make_scheduler
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.router import Router, compiled_router
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.sim.llm.view import RUNNING, WAITING
from servegym.envs.workloads import ConstantLengths, GeometricLengths, generate

pytestmark = pytest.mark.compiled

MEAN_OUTPUT_TOKENS = 400
STEP_S = 1.0 / MEAN_OUTPUT_TOKENS  # so that the mean service time is 1 s
CONSTANT = ConstantLengths(1, MEAN_OUTPUT_TOKENS)
GEOMETRIC = GeometricLengths(1, MEAN_OUTPUT_TOKENS)


FIFO_STEP = {"overhead_s": STEP_S}
SHARED_STEP = {"overhead_s": 0.0, "per_token_s": STEP_S}  # of n requests each goes on at 1/n of the speed


@dataclass(frozen=True)
class TwoLengths:
    """Of ten requests nine are short; the mean is that of the others, the variance 6 times theirs."""

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Prompts of one token, outputs of 40 or 3,640."""
        return np.ones(n, np.int32), np.where(rng.random(n) < 0.9, 40, 3640).astype(np.int32)


def run(load, servers, lengths, router, num_requests, num_replicas=1, step=FIFO_STEP) -> Results:
    """A fleet of `num_replicas` queues with `servers` servers each, at utilisation `load`."""
    engine = Engine(max_num_batched_tokens=1000, max_num_seqs=servers, num_kv_blocks=10**7)
    cost = linear_iteration_cost(max_num_batched_tokens=1000, max_num_seqs=servers, **step)
    rate_rps = load * servers * num_replicas
    workload = generate("poisson", rate_rps, 1.0, num_requests, lengths, np.random.SeedSequence(1))
    return simulate(workload, router, num_replicas=num_replicas, engine=engine, cost=cost)


def mean_wait_s(results: Results) -> float:
    """Mean time from arrival to the start of service."""
    return float(np.mean(results.scheduled_s - results.arrival_s))


def mean_latency_s(results: Results) -> float:
    """Mean time from arrival to the end of service."""
    return float(np.mean(results.finish_s - results.arrival_s))


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_m_m_1(load: float) -> None:
    """Mean wait rho / (1 - rho) services."""
    results = run(load, 1, GEOMETRIC, make_router("round_robin"), 3_000_000)
    assert mean_wait_s(results) == pytest.approx(load / (1 - load), rel=0.01)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_m_d_1(load: float) -> None:
    """Mean wait rho / (2 (1 - rho)) services (Pollaczek-Khinchine)."""
    results = run(load, 1, CONSTANT, make_router("round_robin"), 3_000_000)
    assert mean_wait_s(results) == pytest.approx(load / (2 * (1 - load)), rel=0.01)


def test_m_m_c() -> None:
    """Mean wait C(c, a) / (c - a) services with Erlang's C formula."""
    servers, load = 4, 0.85
    offered = servers * load
    top = offered**servers / math.factorial(servers) / (1 - load)
    wait_probability = top / (sum(offered**k / math.factorial(k) for k in range(servers)) + top)
    results = run(load, servers, GEOMETRIC, make_router("round_robin"), 4_000_000)
    assert mean_wait_s(results) == pytest.approx(wait_probability / (servers - offered), rel=0.01)


@pytest.mark.parametrize("lengths", [CONSTANT, GEOMETRIC, TwoLengths()])
def test_m_g_1_processor_sharing(lengths) -> None:
    """Mean latency 1 / (1 - rho) services, whatever their distribution (Kleinrock, volume 2, 4.4)."""
    load = 0.6
    results = run(load / 900, 900, lengths, make_router("round_robin"), 1_000_000, step=SHARED_STEP)
    assert mean_latency_s(results) == pytest.approx(1 / (1 - load), rel=0.01)


@compiled_router
def _count_requests(replicas, request, parameters, memory, random_state):
    """Adds up the requests an arrival finds on replica 0."""
    parameters[0] += replicas[0, RUNNING] + replicas[0, WAITING]
    return 0


def test_littles_law() -> None:
    """What Poisson arrivals find (the time average, PASTA) is rate times mean latency."""
    counter = Router("counter", _count_requests, np.zeros(1))
    results = run(0.7, 2, GEOMETRIC, counter, 1_000_000)
    found = counter.parameters[0] / len(results.arrival_s)
    rate_rps = len(results.arrival_s) / results.arrival_s[-1]
    assert found == pytest.approx(rate_rps * mean_latency_s(results), rel=0.01)


def test_m_m_1_shortest_remaining_first() -> None:
    """SRPT, which no policy beats on one server: its mean latency by Schrage and Miller (1966)."""
    load = 0.7
    ranking = make_scheduler("srpt")
    engine = ranking.applied_to(Engine(1000, 1, 10**7))
    workload = generate("poisson", load, 1.0, 400_000, GEOMETRIC, np.random.SeedSequence(1))
    results = simulate(
        replace(workload, predicted_output_tokens=workload.output_tokens),
        make_router("round_robin"),
        num_replicas=1,
        engine=engine,
        cost=linear_iteration_cost(max_num_batched_tokens=1000, max_num_seqs=1, overhead_s=STEP_S),
        ranking=ranking,
    )
    assert mean_latency_s(results) == pytest.approx(_srpt_latency(load), rel=0.01)


def _srpt_latency(load: float) -> float:
    """Of services that are exponential with mean 1, by the trapezoidal rule."""
    size_s, step_s = np.linspace(0.0, 30.0, 300_001, retstep=True)
    density = np.exp(-size_s)

    def up_to(values: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2)]) * step_s

    idle = 1 - load * up_to(size_s * density)  # of those up to a size alone
    waiting = load * (up_to(size_s**2 * density) + size_s**2 * density) / (2 * idle**2)
    return float(up_to((waiting + up_to(1 / idle)) * density)[-1])


def test_power_of_d_choices_in_a_large_fleet() -> None:
    """With ever more queues the mean latency tends to the sum of rho^((d^i - d) / (d - 1)) over i = 1, 2, ...

    Mitzenmacher, IEEE TPDS 2001, theorem 1; d = 2 and 512 queues here.
    """
    load = 0.7
    results = run(load, 1, GEOMETRIC, make_router("power_of_two"), 250_000, num_replicas=512)
    steady = results.arrival_s > 30.0  # the fleet starts empty
    latency_s = (results.finish_s - results.arrival_s)[steady].mean()
    assert latency_s == pytest.approx(sum(load ** (2**i - 2) for i in range(1, 10)), rel=0.01)


def test_jsq_over_two_queues() -> None:
    """Mean latency from the stationary distribution of the two lengths, cut off at 40 (Haight, 1958)."""
    load, most = 0.7, 40
    results = run(load, 1, GEOMETRIC, make_router("jsq"), 2_000_000, num_replicas=2)
    assert mean_latency_s(results) == pytest.approx(_jsq_latency(load, most), rel=0.01)


def _jsq_latency(load: float, most: int) -> float:
    """Solves the balance equations of two queues with services of rate 1 and arrivals of rate 2 rho."""
    size = most + 1
    rates = np.zeros((size, size, size, size))
    for a, b in np.ndindex(size, size):
        if min(a, b) < most:
            to_first = 1.0 if a < b else 0.5 if a == b else 0.0
            if a < most:
                rates[a, b, a + 1, b] += 2 * load * to_first
            if b < most:
                rates[a, b, a, b + 1] += 2 * load * (1 - to_first)
        if a > 0:
            rates[a, b, a - 1, b] += 1.0
        if b > 0:
            rates[a, b, a, b - 1] += 1.0
    flow = rates.reshape(size**2, size**2)
    balance = flow.T - np.diag(flow.sum(axis=1))
    balance[0] = 1.0  # the shares add up to 1
    shares = np.linalg.solve(balance, np.eye(size**2)[0])
    present = shares @ np.add.outer(np.arange(size), np.arange(size)).ravel()
    return float(present / (2 * load))  # Little's law


def test_jsq_beats_power_of_two_beats_random_when_loaded() -> None:
    """Mitzenmacher's order of mean waits, with room between."""
    waits = {
        name: mean_wait_s(run(0.9, 1, GEOMETRIC, make_router(name), 400_000, num_replicas=8))
        for name in ("random", "power_of_two", "jsq")
    }
    assert waits["jsq"] < 0.7 * waits["power_of_two"] < 0.7 * 0.7 * waits["random"]
    assert waits["random"] == pytest.approx(9.0, rel=0.1)  # each replica is an M/M/1 queue
