"""Rankings in the fast simulator: equal to the reference, compiled or not, refused where they do not fit."""

from dataclasses import asdict
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from servegym.envs.sim.llm import ranking as columns
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.ranking import Ranking, compiled_ranking
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.workloads import Workload
from servegym.envs.workloads.slo import SloClass
from tests.envs.sim.llm.test_against_reference import TIMES, Case, dyadic_cost, random_cost
from tests.reference import llm as reference
from tests.reference import simulate as reference_fleet

MOST_ASKED = 300
"""Then a drawn ranking goes by arrival, so that it cannot change its mind for ever."""


@compiled_ranking
def drawn_rank(requests, replica, parameters, memory, keys):
    """A weighted sum of all that a ranking sees, in steps: keys are often equal."""
    memory[0] += 1.0
    for i in range(len(requests)):
        if requests[i, columns.PLACE] == columns.GONE:
            memory[1] += requests[i, columns.GENERATED_TOKENS] + requests[i, columns.COMPUTED_TOKENS]
            memory[2] += requests[i, columns.SERVED] + requests[i, columns.MEMORY]
            continue
        requests[i, columns.MEMORY] += 1.0
        requests[i, columns.MEMORY + 1] += requests[i, columns.SERVED]
        requests[i, columns.MEMORY + 2] = memory[1] + memory[2]
        key = parameters[0] * (replica[columns.NOW_S] - requests[i, columns.ARRIVAL_S])
        key += parameters[1] * replica[columns.LAST_ITERATION_S] * requests[i, columns.SERVED]
        key += parameters[2] * replica[columns.FREE_BLOCKS] * requests[i, columns.PRIORITY]
        key += parameters[3] * requests[i, columns.TENANT]
        if requests[i, columns.TTFT_SLO_S] < np.inf:
            key += parameters[4] * requests[i, columns.TTFT_SLO_S]
        for column in (1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14):
            key += parameters[4 + column] * requests[i, column]
        keys[i] = requests[i, columns.ARRIVAL_S] if memory[0] > MOST_ASKED else np.floor(key)


def drawn_ranking(rng: np.random.Generator, ranks: str) -> Ranking:
    """Few of the weights are not 0; steps are small or large."""
    weights = rng.normal(size=20) * (rng.random(20) < 0.25) * rng.choice([0.1, 1.0, 100.0])
    every = ranks == "batch" and bool(rng.integers(2))
    return Ranking("drawn", drawn_rank, ranks, every, parameters=weights, memory_size=3)


def ranked_case(seed: int, scheduler: str | None = None) -> tuple[Case, Ranking | None]:
    """Any scheduler that a ranking, or one of our settings, can go with."""
    rng = np.random.default_rng(seed)
    names = ["ranked", "vllm_v1", "sarathi", "vllm_v0", "orca", "lightllm", "static", "multi_bin"]
    scheduler = scheduler or str(rng.choice(names, p=[0.5, 0.2, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]))
    num_requests = int(rng.integers(1, 30))
    block_size = int(rng.choice([1, 2, 4, 16]))
    max_num_seqs = int(rng.integers(1, 7))
    prompts = rng.integers(1, rng.choice([3, 20, 60]), num_requests)
    outputs = rng.integers(1, rng.choice([2, 12, 50]), num_requests)
    limits = outputs + rng.integers(0, 10, num_requests) * int(rng.integers(2))
    longest = int(np.max(prompts + limits))
    most_blocks = -(-longest // block_size)
    blocks = most_blocks + int(rng.integers(0, max(2, 2 * most_blocks)))
    budget = int(max_num_seqs + rng.integers(0, 40))
    rules: dict[str, Any] = {"scheduler": scheduler}
    if scheduler in ("vllm_v0", "orca", "lightllm", "static", "multi_bin"):
        budget = longest + max_num_seqs + int(rng.integers(0, 60))
    if scheduler in ("ranked", "vllm_v1", "sarathi", "vllm_v0"):
        rules["watermark"] = float(rng.choice([0.0, 0.0, 0.05, 0.2]))
        blocks = int((blocks + 2) / (1 - rules["watermark"])) + 1
    if scheduler in ("ranked", "vllm_v0") and rng.random() < 0.6:
        rules |= {"preemption": "swap", "swap_blocks": int(rng.integers(1, 2 * most_blocks + 2))}
        rules["swap_s_per_block"] = float(rng.choice([0.25, 2.0]))
        if scheduler == "ranked" and rng.random() < 0.5:
            rules["swap_ahead_blocks"] = int(rng.integers(1, blocks + 1))
    if scheduler == "vllm_v1":
        rules["reserved_output_share"] = float(rng.choice([0.0, 0.3, 0.5, 1.0]))
        rules["reserve_full_prompt"] = bool(rng.integers(2))
        rules["long_prefill_token_threshold"] = int(rng.choice([0, 0, rng.integers(1, 20)]))
    if scheduler == "orca":
        rules["max_model_len"] = longest
        blocks += 10
    if scheduler == "lightllm":
        blocks += max_num_seqs + 1 + 2 // block_size
    ranking = None
    if scheduler == "ranked":
        ranking = drawn_ranking(rng, "batch")
    elif scheduler == "multi_bin" or rng.random() < 0.8:
        ranking, rules["order"] = drawn_ranking(rng, "queue"), "rank"
    else:
        rules["order"] = str(rng.choice(["fcfs", "priority"]))
    engine = Engine(budget, max_num_seqs, blocks, block_size, **rules)
    if rng.integers(2):
        cost = dyadic_cost(engine)
        gaps = rng.integers(0, 12, num_requests) * 0.25
    else:
        cost = random_cost(rng, engine)
        gaps = rng.exponential(rng.choice([0.01, 1.0, 10.0]), num_requests)
    given: dict[str, Any] = {"max_output_tokens": limits} if rng.integers(2) else {}
    if rng.random() < 0.7:
        given["predicted_output_tokens"] = rng.integers(1, 40, num_requests)
        given["prediction_refinement"] = rng.choice([None, None, 0.3])
    if rng.random() < 0.5:
        given["priority"] = rng.integers(0, 3, num_requests)
        given["tenant"] = rng.integers(0, 3, num_requests)
    if rng.random() < 0.5:
        given["slo_class"] = rng.integers(0, 2, num_requests)
        given["slo_classes"] = (SloClass("a", 1.5, 0.25), SloClass("b", np.inf, np.inf))
    workload = Workload("random", np.cumsum(gaps), prompts, outputs, **given)
    num_replicas = int(rng.integers(1, 3))
    decisions = list(rng.integers(0, num_replicas, num_requests))
    return Case(workload, engine, cost, num_replicas, decisions), ranking


def run_fast(case: Case, ranking: Ranking | None, *, log: bool = False) -> tuple[Results, list[np.ndarray]]:
    """Results, and the views that the router saw."""
    views: list[np.ndarray] = []

    def choose(replicas, request, *_):
        views.append(replicas.copy())
        return int(case.decisions[(len(views) - 1) % len(case.decisions)])

    results = simulate(
        case.workload,
        Router("scripted", choose),
        num_replicas=case.num_replicas,
        engine=case.engine,
        cost=case.cost,
        ranking=ranking,
        log=log,
        debug=True,
    )
    return results, views[: len(case.decisions)]


def check_equal(case: Case, ranking: Ranking | None) -> int:
    """Asserts equality with the reference; returns the number of preemptions."""
    fast, views = run_fast(case, ranking)
    script = iter(case.decisions)
    slow = reference_fleet.simulate_fleet(
        case.workload,
        lambda replicas, request: int(next(script)),
        replicas=[reference_fleet.ReplicaSpec(reference.Engine(**asdict(case.engine)), case.cost)]
        * case.num_replicas,
        ranking=ranking,
    )
    for name in TIMES:
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=1e-9, err_msg=name)
    np.testing.assert_array_equal(fast.preemptions, slow.preemptions)
    np.testing.assert_allclose(views, slow.views, rtol=1e-9, atol=1e-9)
    return int(fast.preemptions.sum())


@given(seed=st.integers(0, 2**63 - 1))
@settings(max_examples=1000, deadline=None)
def test_equal_on_random_cases(seed: int) -> None:
    """Results, preemptions and everything a router sees, invariants checked."""
    check_equal(*ranked_case(seed))
