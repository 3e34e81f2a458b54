"""Placement: phases against closed forms, splits, and whole fleets."""

import math

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.metrics import SloLimits
from servegym.envs.sim.llm.cluster.plan import FleetPlan, Member
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.workloads import Workload, generate
from servegym.envs.workloads.lengths import ConstantLengths
from servegym.experiments.evaluation.goodput import Demand
from servegym.experiments.placement.phases import PhaseGoodputs, Search, phase_goodputs
from servegym.experiments.placement.search import best, placements, simulated

PROMPT, OUTPUT = 100, 51
OVERHEAD_S, S_PER_TOKEN = 0.002, 0.0001


def member(max_num_seqs: int = 32) -> Member:
    """Prefills a prompt at a time, in 2 ms and 0.1 ms a token; decodes in 2 ms and 0.1 ms a request."""
    engine = Engine(max_num_batched_tokens=PROMPT, max_num_seqs=max_num_seqs, num_kv_blocks=2000)
    cost = linear_iteration_cost(
        max_num_batched_tokens=PROMPT,
        max_num_seqs=max_num_seqs,
        overhead_s=OVERHEAD_S,
        per_token_s=S_PER_TOKEN,
    )
    return Member(engine, cost)


def demand(ttft_s: float, tpot_s: float, num_requests: int = 20_000) -> Demand:
    def workload(seed: int) -> Workload:
        lengths = ConstantLengths(PROMPT, OUTPUT)
        return generate("poisson", 1.0, 1, num_requests, lengths, np.random.SeedSequence(seed))

    return Demand(workload, lambda workload: SloLimits(ttft_s, tpot_s))


SEARCH = Search(seeds=(0, 1), share=0.9, guess=20.0)


@pytest.mark.compiled
def test_prefill_alone_is_a_queue_with_constant_service() -> None:
    service_s = OVERHEAD_S + S_PER_TOKEN * PROMPT
    found = phase_goodputs(member(), demand(2 * service_s, math.inf), SEARCH).prefill_rps
    # M/D/1: P(W <= D) = (1 - rho) exp(rho)
    loads = np.linspace(0, 1, 100_001)
    load = loads[(1 - loads) * np.exp(loads) >= 0.9][-1]
    assert found == pytest.approx(load / service_s, rel=0.03)


@pytest.mark.compiled
def test_decode_alone_keeps_the_batch_at_which_an_iteration_takes_its_limit() -> None:
    batch = 20
    tpot_s = OVERHEAD_S + S_PER_TOKEN * batch
    search = SEARCH._replace(share=0.5)  # the median request, of a system that has so many at a time
    found = phase_goodputs(member(), demand(math.inf, tpot_s), search).decode_rps
    # Little's law: so many are there on average, and who comes sees them and itself.
    assert found == pytest.approx((batch - 1) / (tpot_s * (OUTPUT - 1)), rel=0.02)


def test_splits_are_matched_by_rate_and_the_smallest_of_equals() -> None:
    phases = {1: PhaseGoodputs(10.0, 30.0), 2: PhaseGoodputs(25.0, 45.0)}
    found = {(p.system, *[pool.tensor_parallel for pool in p.pools]): p for p in placements(4, phases)}
    split = found["distserve", 1, 1]
    assert [pool.replicas for pool in split.pools] == [3, 1]
    assert split.predicted_rps == 30.0
    pair = found["distserve", 2, 1].pools
    assert [pool.replicas for pool in pair] == [1, 1]  # a second decode replica adds nothing
    assert found["distserve", 2, 1].gpus == 3
    assert found["splitwise", 2, 2].router == "splitwise"
    assert ("splitwise", 1, 2) not in found
    assert [pool.replicas for pool in found["colocated", 1].pools] == [4]


def test_degrees_that_serve_nobody_have_no_split() -> None:
    phases = {1: PhaseGoodputs(0.0, 30.0)}
    assert [placement.system for placement in placements(4, phases)] == ["colocated"]


@pytest.mark.compiled
def test_apart_beats_colocated_where_prefills_stall_decodes() -> None:
    """A decode iteration may take 4 ms; beside a prefill it takes over 12."""
    one = member()
    wanted = demand(0.1, 0.004, 4000)
    phases = {1: phase_goodputs(one, wanted, SEARCH)}
    candidates = {
        placement.system: simulated(placement, lambda degree: one, FleetPlan([one]), wanted, SEARCH)
        for placement in placements(4, phases)
    }
    assert candidates["distserve"].rps_per_gpu > 1.2 * candidates["colocated"].rps_per_gpu
    assert best(list(candidates.values())).placement.system in ("distserve", "splitwise")
    split = candidates["distserve"]
    assert split.goodput.estimate.iqm == pytest.approx(split.placement.predicted_rps, rel=0.3)


@pytest.mark.compiled
def test_limits_that_nothing_keeps_are_refused() -> None:
    one = member()
    short = demand(1e-6, 1e-6, 50)
    placement = next(placements(1, {1: PhaseGoodputs(1.0, 1.0)}))
    with pytest.raises(InputError, match="no placement keeps the limits"):
        best([simulated(placement, lambda degree: one, FleetPlan([one]), short, SEARCH)])
