"""The fast simulator and the naive reference, written apart, agree on everything."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.costmodels.iterations.cost import IterationCost, validate_iteration_cost
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload
from tests.conftest import examples
from tests.reference import llm as reference
from tests.reference import simulate as reference_fleet

TIMES = ("scheduled_s", "first_token_s", "finish_s")


def random_cost(rng: np.random.Generator, engine: Engine) -> IterationCost:
    """Tables without any structure, as measurements might be: nothing monotone, any number of knots."""
    num_knots, num_chunks, num_histories = rng.integers(1, 5, 3)
    tokens, seqs = engine.max_num_batched_tokens + 1, engine.max_num_seqs + 1
    # growing along a row, so that no iteration gets a negative time beyond the last knot
    attention = np.cumsum(rng.random((2, seqs, num_knots)), axis=2) * rng.choice([0.0, 0.1, 1.0])
    attention[:, 0] = 0.0
    cost = IterationCost(
        overhead_s=float(rng.random()) + 0.01,
        linear_s=rng.random(tokens),
        communication_s=rng.random(tokens) * rng.integers(2),
        lm_head_s=rng.random(seqs),
        sampler_s=rng.random(seqs),
        prefill_chunk_knots=np.sort(rng.choice(np.arange(1.0, 40.0), num_chunks, replace=False)),
        prefill_history_knots=np.sort(rng.choice(np.arange(0.0, 60.0), num_histories, replace=False)),
        prefill_s_per_pair=rng.random((num_chunks, num_histories)) * 0.01,
        decode_kv_knots=np.append(
            0.0, np.sort(rng.choice(np.arange(1.0, 200.0), num_knots - 1, replace=False))
        ),
        decode_attention_s=attention[0],
        mixed_decode_attention_s=attention[1],
        mixed_s_per_pair=float(rng.random()) * 0.01,
        prefill_overhead_s=float(rng.random()) * rng.integers(2),
    )
    validate_iteration_cost(cost)
    return cost


def dyadic_cost(engine: Engine) -> IterationCost:
    """Every iteration takes a multiple of 1/4 s exactly, so that events coincide to the bit."""
    tokens, seqs = engine.max_num_batched_tokens + 1, engine.max_num_seqs + 1
    return IterationCost(
        overhead_s=0.5,
        linear_s=np.arange(tokens) * 0.25,
        communication_s=np.zeros(tokens),
        lm_head_s=np.zeros(seqs),
        sampler_s=np.zeros(seqs),
        prefill_chunk_knots=np.array([1.0]),
        prefill_history_knots=np.array([0.0]),
        prefill_s_per_pair=np.zeros((1, 1)),
        decode_kv_knots=np.array([0.0]),
        decode_attention_s=np.zeros((seqs, 1)),
        mixed_decode_attention_s=np.full((seqs, 1), 0.25),
        mixed_s_per_pair=0.25,
    )


SCHEDULERS = ("vllm_v1", "sarathi", "vllm_v0", "orca", "lightllm", "sglang")


@dataclass
class Case:
    """A small workload, fleet and decisions."""

    workload: Workload
    engine: Engine
    cost: IterationCost
    num_replicas: int
    decisions: list[int]


def random_case(seed: int) -> Case:
    """Any scheduler with any of its features; KV blocks for the largest request or more; ties or none."""
    rng = np.random.default_rng(seed)
    scheduler = str(rng.choice(SCHEDULERS, p=[0.4, 0.12, 0.12, 0.12, 0.12, 0.12]))
    num_requests = int(rng.integers(1, 30))
    block_size = int(rng.choice([1, 2, 4, 16]))
    max_num_seqs = int(rng.integers(1, 9))
    prompts = rng.integers(1, rng.choice([3, 20, 60]), num_requests)
    outputs = rng.integers(1, rng.choice([2, 12, 50]), num_requests)
    longest = int(np.max(prompts + outputs))
    most_blocks = -(-longest // block_size)
    blocks = most_blocks + int(rng.integers(0, max(2, 2 * most_blocks)))
    budget = int(max_num_seqs + rng.integers(0, 40))
    rules: dict[str, Any] = {"scheduler": scheduler}
    whole_prompts = scheduler in ("vllm_v0", "orca", "lightllm")
    if whole_prompts:
        budget = longest + max_num_seqs + int(rng.integers(0, 60))
    if scheduler == "vllm_v1":
        rules |= {
            "order": str(rng.choice(["fcfs", "priority"])),
            "reserve_full_prompt": bool(rng.integers(2)),
            "long_prefill_token_threshold": int(rng.choice([0, 0, rng.integers(1, 20)])),
            "prefix_caching": bool(rng.integers(2)),
        }
    if scheduler == "sglang":
        rules["prefix_caching"] = bool(rng.integers(2))
    if scheduler in ("sarathi", "vllm_v0"):
        rules["watermark"] = float(rng.choice([0.0, 0.01, 0.1]))
        blocks += 2 + blocks // 5
    if scheduler == "vllm_v0":
        rules["order"] = str(rng.choice(["fcfs", "priority"]))
        if rng.random() < 0.3:
            rules["max_padded_prefill_tokens"] = int(rng.integers(longest, budget + 1))
        if rng.random() < 0.5:
            swap = {"swap_blocks": int(rng.integers(1, 2 * most_blocks)), "swap_s_per_block": 0.25}
            rules |= {"preemption": "swap", **swap}
    if scheduler == "orca":
        rules["max_model_len"] = longest + int(rng.integers(0, 10))
        blocks += 10
    if scheduler == "lightllm":
        rules["decodes_between_prefills"] = int(rng.integers(1, 12))
        blocks += max_num_seqs + 1 + 2 // block_size
    engine = Engine(budget, max_num_seqs, blocks, block_size, **rules)
    if rng.integers(2):
        cost = dyadic_cost(engine)
        gaps = rng.integers(0, 12, num_requests) * 0.25
    else:
        cost = random_cost(rng, engine)
        gaps = rng.exponential(rng.choice([0.01, 1.0, 10.0]), num_requests)
    columns: dict[str, Any] = {}
    if rng.random() < 0.5:
        columns["predicted_output_tokens"] = rng.integers(1, 40, num_requests)
        columns["prediction_refinement"] = rng.choice([None, None, 0.3, 1.0])
    if rng.random() < 0.5:
        columns["priority"] = rng.integers(0, 3, num_requests)
    if rng.random() < 0.5 and scheduler in ("lightllm", "sglang"):
        columns["max_output_tokens"] = np.minimum(
            outputs + rng.integers(0, 30, num_requests), longest - prompts
        )
    if rules.get("prefix_caching"):
        columns |= random_prefixes(rng, prompts, block_size)
    num_replicas = int(rng.integers(1, 4))
    decisions = list(rng.integers(0, num_replicas, num_requests))
    workload = Workload("random", np.cumsum(gaps), prompts, outputs, **columns)
    return Case(workload, engine, cost, num_replicas, decisions)


def random_prefixes(rng: np.random.Generator, prompts: np.ndarray, block_size: int) -> dict[str, Any]:
    """Contents of prompts from a tree: requests share the way from the root down to where they part."""
    unit = block_size * int(rng.integers(1, 3))
    ids: list[int] = []
    offsets = [0]
    for prompt in prompts:
        node = int(rng.integers(0, 3))
        for _ in range(-(-int(prompt) // unit)):
            ids.append(node)
            node = (3 * node + 3 + int(rng.choice([0, 0, 0, 1, 2]))) % (2**61 - 1)
        offsets.append(len(ids))
    return {"prefix_ids": ids, "prefix_offsets": offsets, "prefix_block_tokens": unit}


def run_both(case: Case):
    """Results and the views that routers saw, of the fast simulator and of the reference."""
    workload, engine = case.workload, case.engine
    views: list[np.ndarray] = []
    requests: list[np.ndarray] = []

    def choose(replicas, request, *_):
        views.append(replicas.copy())
        requests.append(request.copy())
        return int(case.decisions[len(views) - 1])

    fast = simulate(
        workload,
        Router("scripted", choose),
        num_replicas=case.num_replicas,
        engine=engine,
        cost=case.cost,
        debug=True,
    )
    script = iter(case.decisions)
    slow = reference_fleet.simulate_fleet(
        workload,
        lambda replicas, request: int(next(script)),
        replicas=[reference_fleet.ReplicaSpec(reference.Engine(**asdict(engine)), case.cost)]
        * case.num_replicas,
    )
    return fast, views, requests, slow


def check_equal(case: Case) -> int:
    """Asserts equality; returns the number of preemptions."""
    fast, views, requests, slow = run_both(case)
    np.testing.assert_array_equal(fast.replica, slow.replica)
    for name in TIMES:
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=1e-9, err_msg=name)
    np.testing.assert_array_equal(fast.preemptions, slow.preemptions)
    np.testing.assert_allclose(views, slow.views, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(requests, slow.requests, rtol=1e-9, atol=1e-12)
    return int(fast.preemptions.sum())


@given(seed=st.integers(0, 2**63 - 1))
@examples(2000)
def test_equal_on_random_cases(seed: int) -> None:
    """Results, preemptions and everything a router sees, on random cases, invariants checked."""
    check_equal(random_case(seed))


@pytest.mark.compiled
def test_random_cases_run_out_of_blocks() -> None:
    """The cases above exercise preemption: a fair share of them must preempt."""
    preempted = [check_equal(random_case(seed)) > 0 for seed in range(100)]
    assert np.mean(preempted) > 0.2


@pytest.mark.parametrize("num_kv_blocks", [60, 900])
def test_equal_on_a_busy_replica(num_kv_blocks: int) -> None:
    """A longer run in which decodes skip far ahead, with scarce and with plenty of blocks."""
    rng = np.random.default_rng(3)
    engine = Engine(128, 32, num_kv_blocks)
    cost = random_cost(rng, engine)
    workload = Workload(
        "busy", np.cumsum(rng.exponential(20.0, 150)), rng.integers(1, 300, 150), rng.integers(1, 400, 150)
    )
    fast = simulate(
        workload,
        Router("one", lambda *_: 0, looks=False),
        num_replicas=1,
        engine=engine,
        cost=cost,
        debug=True,
    )
    slow = reference.simulate(
        workload.arrival_s,
        workload.prompt_tokens,
        workload.output_tokens,
        lambda *_: 0,
        num_replicas=1,
        engine=reference.Engine(128, 32, 16, num_kv_blocks),
        cost=cost,
    )
    for name in TIMES:
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=1e-9, err_msg=name)
    np.testing.assert_array_equal(fast.preemptions, slow.preemptions)
