"""Schedulers through whole simulations of one overloaded replica: what each is for."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.agents.schedulers import SCHEDULERS, make_scheduler
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.ranking import Ranking
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.workloads import Workload
from servegym.envs.workloads.slo import SloClass

pytestmark = pytest.mark.compiled

ENGINE = Engine(max_num_batched_tokens=256, max_num_seqs=8, num_kv_blocks=200)
COST = linear_iteration_cost(
    max_num_batched_tokens=65_536, max_num_seqs=64, overhead_s=0.01, per_token_s=0.0001
)
PARAMETERS: dict[str, dict[str, Any]] = {
    "ssjf": {"guard": True, "max_wait_s": 3.0},
    "learning_to_rank": {"starvation_iterations": 30, "quantum_iterations": 5},
    "fastserve": {"max_batch": 8, "swap_blocks": 50, "swap_ahead_blocks": 8, "swap_s_per_block": 0.0005},
    "vtc": {"num_tenants": 3},
}
"""Where the defaults leave a part of the rule out of so small a simulation."""


def workload_of(num: int, rate_rps: float, seed: int = 0) -> Workload:
    """Poisson arrivals; outputs of 1 to 400 tokens, most of them short, predicted exactly."""
    rng = np.random.default_rng(seed)
    outputs = np.clip(rng.lognormal(3.0, 1.2, num), 1, 400).astype(int)
    return Workload(
        "overload",
        np.cumsum(rng.exponential(1 / rate_rps, num)),
        rng.integers(10, 200, num),
        outputs,
        predicted_output_tokens=outputs,
        priority=rng.integers(0, 3, num),
        tenant=rng.integers(0, 3, num),
        slo_class=rng.integers(0, 2, num),
        slo_classes=(SloClass("tight", 1.0, 0.1), SloClass("loose", 20.0, 0.1)),
    )


OVERLOAD = workload_of(300, rate_rps=25.0)
"""About a third more than the replica can serve."""


def run(ranking: Ranking | None, workload: Workload = OVERLOAD, engine: Engine = ENGINE) -> Results:
    """Served by one replica; None: first come, first served."""
    return simulate(
        workload,
        make_router("round_robin"),
        num_replicas=1,
        engine=engine if ranking is None else ranking.applied_to(engine),
        cost=COST,
        ranking=ranking,
        debug=True,
    )


def mean_latency_s(results: Results) -> float:
    return float(np.mean(results.finish_s - results.arrival_s))


def ttft_s(results: Results) -> np.ndarray:
    return results.first_token_s - results.arrival_s


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_simulation_is_the_same_in_plain_python(name: str) -> None:
    scheduler = make_scheduler(name, **PARAMETERS.get(name, {}))
    plain = replace(scheduler, rank=scheduler.rank.py_func)  # type: ignore[attr-defined]
    workload = OVERLOAD.take(slice(120))
    ours, theirs = run(scheduler, workload), run(plain, workload)
    for field in ("scheduled_s", "first_token_s", "finish_s", "preemptions"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
    assert (ours.finish_s > ours.arrival_s).all()


def test_srpt_beats_sjf_beats_fcfs_in_mean_latency() -> None:
    fcfs, sjf, srpt = (
        mean_latency_s(run(ranking)) for ranking in (None, make_scheduler("sjf"), make_scheduler("srpt"))
    )
    assert srpt < sjf < 0.7 * fcfs


def test_one_seat_is_given_in_the_order_of_predictions() -> None:
    """All come at once: whoever is there first keeps the seat, then the shortest first."""
    at_once = replace(OVERLOAD.take(slice(50)), arrival_s=np.zeros(50))
    for name in ("sjf", "ssjf", "srpt", "learning_to_rank", "trail"):
        results = run(make_scheduler(name), at_once, replace(ENGINE, max_num_seqs=1))
        served = at_once.output_tokens[np.argsort(results.finish_s, kind="stable")]
        assert (np.diff(served) >= 0).all()


def test_trail_is_srpt_at_one_end_and_leaves_the_running_alone_at_the_other() -> None:
    """With exact predictions a request that has generated all of its own is done."""
    srpt = run(make_scheduler("srpt"))
    np.testing.assert_array_equal(run(make_scheduler("trail", c=1.0)).finish_s, srpt.finish_s)
    engine = replace(ENGINE, num_kv_blocks=2000)  # no shortage of blocks
    limited = run(make_scheduler("trail", c=0.0), engine=engine)
    ssjf = run(make_scheduler("ssjf"), engine=engine)
    np.testing.assert_array_equal(limited.finish_s, ssjf.finish_s)


def test_priority_is_the_engines_own_order_by_priority() -> None:
    by_engine = run(None, engine=replace(ENGINE, order="priority"))
    by_ranking = run(make_scheduler("priority"))
    np.testing.assert_array_equal(by_engine.finish_s, by_ranking.finish_s)
    urgent = OVERLOAD.priority == 0
    assert ttft_s(by_ranking)[urgent].mean() < 0.2 * ttft_s(by_ranking)[~urgent].mean()


@pytest.mark.parametrize("name", ["edf", "slack"])
def test_deadlines_are_met_by_more_than_first_come_first_served(name: str) -> None:
    promised = np.array([each.ttft_s for each in OVERLOAD.slo_classes])[OVERLOAD.slo_class]
    kept, kept_by_fcfs = (np.mean(ttft_s(run(each)) <= promised) for each in (make_scheduler(name), None))
    assert kept > kept_by_fcfs + 0.1


def test_larry_is_between_first_come_and_shortest_prompt() -> None:
    prompts = OVERLOAD.prompt_tokens
    by_prompt = [
        np.corrcoef(prompts, ttft_s(run(make_scheduler("larry", w_len=w_len, headroom=0.0))))[0, 1]
        for w_len in (0.0, 10.0, 1000.0)
    ]
    assert by_prompt == sorted(by_prompt)
    assert by_prompt[0] < 0.1 < 0.4 < by_prompt[-1]


def test_headroom_saves_preemptions() -> None:
    engine = replace(ENGINE, num_kv_blocks=80)
    none, some = (
        int(run(make_scheduler("larry", headroom=share), engine=engine).preemptions.sum())
        for share in (0.0, 0.2)
    )
    assert some < 0.8 * none


def test_reserving_all_output_never_preempts_and_reserving_none_fills_the_cache() -> None:
    engine = replace(ENGINE, num_kv_blocks=60)
    preemptions = [
        int(run(make_scheduler("conservative", reserved_output_share=share), engine=engine).preemptions.sum())
        for share in (0.0, 0.5, 1.0)
    ]
    assert preemptions[0] > preemptions[1] > preemptions[2] == 0


def test_bins_raise_the_rate_of_static_batches() -> None:
    """All are there at once: the less a batch waits for its longest, the sooner the last is done."""
    at_once = replace(OVERLOAD, arrival_s=np.zeros(OVERLOAD.num_requests))
    engine = replace(ENGINE, max_num_batched_tokens=2048, num_kv_blocks=600)
    ends = [
        run(
            make_scheduler("multi_bin", num_bins=bins, predicted_outputs=at_once.output_tokens),
            at_once,
            engine,
        ).finish_s.max()
        for bins in (1, 2, 4, 8)
    ]
    assert ends == sorted(ends, reverse=True)
    assert ends[-1] < 0.7 * ends[0]


def test_guards_bound_the_wait_of_a_long_request() -> None:
    """One long request among a stream of short ones that alone overloads the replica."""
    rng = np.random.default_rng(2)
    num = 1200
    outputs = np.where(np.arange(num) == 20, 60, rng.integers(8, 16, num))
    stream = Workload(
        "short",
        np.arange(num) * 0.02,
        np.full(num, 20),
        outputs,
        predicted_output_tokens=outputs,
    )
    engine = replace(ENGINE, max_num_seqs=4)

    def wait_s(name: str, **parameters: object) -> float:
        return float(ttft_s(run(make_scheduler(name, **parameters), stream, engine))[20])

    assert wait_s("learning_to_rank", starvation_iterations=0) > 20
    assert wait_s("learning_to_rank", starvation_iterations=100) < 3
    assert wait_s("ssjf") > 20
    assert wait_s("ssjf", guard=True, max_wait_s=2.0) < 3


def test_fastserve_serves_the_short_sooner_without_predictions() -> None:
    """Where the host has room for all, and nobody is so late that starvation brings everyone to the front."""
    short = OVERLOAD.output_tokens < np.median(OVERLOAD.output_tokens)
    means = []
    for starvation_s in (60.0, 0.1):
        given = PARAMETERS["fastserve"] | {
            "starvation_s": starvation_s,
            "starvation_period": 1,
            "swap_blocks": 10_000,
        }
        results = run(make_scheduler("fastserve", **given))
        means.append(float(np.mean((results.finish_s - results.arrival_s)[short])))
    fcfs = run(None)
    means.append(float(np.mean((fcfs.finish_s - fcfs.arrival_s)[short])))
    assert means[0] < 0.5 * means[2]
    assert means[0] < means[1]


def test_vtc_protects_a_light_tenant_and_shares_between_heavy_ones() -> None:
    """Tenants 0 and 1 send five times what they get served; tenant 2 sends little, and hardly notices."""
    rng = np.random.default_rng(3)
    num = 400
    tenant = rng.choice(3, num, p=[0.64, 0.32, 0.04]).astype(np.int32)
    base = replace(workload_of(num, 50.0, seed=3), tenant=tenant)
    fair, fcfs = run(make_scheduler("vtc", num_tenants=3), base), run(None, base)
    light = tenant == 2
    assert ttft_s(fair)[light].mean() < 0.2 * ttft_s(fcfs)[light].mean()
    until_s = base.arrival_s[-1]  # until then both heavy ones always have someone waiting
    cost = base.prompt_tokens + 2 * base.output_tokens

    def ratio(results: Results) -> float:
        served = results.finish_s < until_s
        return float(cost[served & (tenant == 0)].sum() / cost[served & (tenant == 1)].sum())

    assert ratio(fcfs) > 1.5
    assert 0.8 < ratio(fair) < 1.25
