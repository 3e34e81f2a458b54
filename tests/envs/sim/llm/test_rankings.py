"""Rankings in the fast simulator: equal to the reference, compiled or not, refused where they do not fit."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm import ranking as columns
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.ranking import Ranking, compiled_ranking
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.workloads import Workload
from servegym.envs.workloads.slo import SloClass
from tests.conftest import examples
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
@examples(1000)
def test_equal_on_random_cases(seed: int) -> None:
    """Results, preemptions and everything a router sees, invariants checked."""
    check_equal(*ranked_case(seed))


@pytest.mark.compiled
def test_random_cases_exercise_the_schedulers() -> None:
    """A fair share of the cases above preempt, and with each scheduler some wait."""
    preempted = [check_equal(*ranked_case(seed, "ranked")) > 0 for seed in range(40)]
    assert np.mean(preempted) > 0.2


@pytest.mark.parametrize("seed", range(12))
def test_equal_compiled_or_not(seed: int) -> None:
    """The same function as machine code and as plain Python gives the same results, to the bit."""
    case, ranking = ranked_case(seed, "ranked" if seed % 2 else "vllm_v1")
    if ranking is None:
        ranking = drawn_ranking(np.random.default_rng(seed), "queue")
        case = replace(case, engine=replace(case.engine, order="rank"))
    function = getattr(drawn_rank, "py_func", drawn_rank)
    plain = replace(ranking, rank=lambda *arguments: function(*arguments))
    assert not plain.is_compiled
    results, views = run_fast(case, ranking)
    others, other_views = run_fast(case, plain)
    for name in (*TIMES, "preemptions"):
        np.testing.assert_array_equal(getattr(results, name), getattr(others, name))
    np.testing.assert_array_equal(views, other_views)


def three(**given: Any) -> Workload:
    return Workload("three", [0.0, 0.0, 0.0], [4, 8, 12], [6, 3, 9], **given)


def run_three(ranking: Ranking, engine: Engine | None = None, **given: Any) -> Results:
    """Three requests that come at once to a replica with one seat."""
    engine = engine or ranking.applied_to(Engine(64, 1, 64, 4))
    router = Router("one", lambda *_: 0, looks=False)
    return simulate(
        three(**given),
        router,
        num_replicas=1,
        engine=engine,
        cost=dyadic_cost(engine),
        ranking=ranking,
        debug=True,
    )


def _longest_first(requests, replica, parameters, memory, keys):
    keys[:] = -requests[:, columns.PROMPT_TOKENS]


@pytest.mark.parametrize("ranks", ["queue", "batch"])
def test_a_python_function_orders_requests(ranks: str) -> None:
    """The longest prompt is served first, one after another."""
    results = run_three(Ranking("longest", _longest_first, ranks))
    assert results.finish_s[2] < results.finish_s[1] < results.finish_s[0]


@pytest.mark.parametrize("ranks", ["queue", "batch"])
def test_an_exception_in_python_reaches_the_caller(ranks: str) -> None:
    """The one that the ranking has raised, whatever it is."""

    def rank(requests, replica, parameters, memory, keys):
        raise LookupError("nobody knows")

    with pytest.raises(LookupError, match="nobody knows"):
        run_three(Ranking("failing", rank, ranks))


@pytest.mark.parametrize("ranks", ["queue", "batch"])
def test_keys_that_are_no_numbers_are_refused(ranks: str) -> None:
    """Keys that were not written are none."""
    with pytest.raises(InputError, match="every key must be written, and not be NaN"):
        run_three(Ranking("silent", lambda *_: None, ranks))


def test_those_gone_are_shown_once_more() -> None:
    """With all their tokens, as served, with their memory; and everybody is shown in each iteration asked."""
    gone: list[tuple[float, ...]] = []

    def rank(requests, replica, parameters, memory, keys):
        left = requests[:, columns.PLACE] == columns.GONE
        shown = (columns.GENERATED_TOKENS, columns.COMPUTED_TOKENS, columns.SERVED, columns.MEMORY)
        gone.extend(map(tuple, requests[left][:, shown].tolist()))
        keys[:] = requests[:, columns.ARRIVAL_S]
        requests[~left, columns.MEMORY] += 1.0

    run_three(Ranking("watching", rank, every_iteration=True))
    # each is asked about before its 6 and 3 iterations, and while it waits; nobody is left to see the last go
    assert gone == [(6.0, 9.0, 1.0, 6.0), (3.0, 10.0, 1.0, 9.0)]


def test_paused_requests_keep_their_blocks() -> None:
    """Least attained service takes turns: nobody is preempted, and blocks of all three are in use."""
    blocks: list[float] = []

    def rank(requests, replica, parameters, memory, keys):
        keys[:] = requests[:, columns.GENERATED_TOKENS]
        blocks.append(replica[columns.TOTAL_BLOCKS] - replica[columns.FREE_BLOCKS])

    results = run_three(Ranking("least attained", rank, every_iteration=True))
    assert results.preemptions.sum() == 0
    assert max(blocks) >= 1 + 2 + 3  # those of the prompts alone


@pytest.mark.parametrize(
    ("ranks", "rules", "message"),
    [
        ("queue", {"scheduler": "ranked"}, 'engine.scheduler = ranked: needs a ranking with ranks = "batch"'),
        ("batch", {"order": "rank"}, 'engine.order = rank: needs a ranking with ranks = "queue"'),
    ],
)
def test_engines_that_need_another_ranking_are_refused(
    ranks: str, rules: dict[str, Any], message: str
) -> None:
    """And those that need one where there is none."""
    engine = Engine(64, 1, 64, 4, **rules)
    with pytest.raises(InputError, match=message):
        run_three(Ranking("mine", _longest_first, ranks), engine)
    with pytest.raises(InputError, match=message):
        simulate(
            three(), Router("one", lambda *_: 0), num_replicas=1, engine=engine, cost=dyadic_cost(engine)
        )


@pytest.mark.parametrize("need", ["predictions", "priorities", "slo_classes", "tenants"])
def test_needs_are_refused(need: str) -> None:
    with pytest.raises(InputError, match="scheduler mine needs "):
        run_three(Ranking("mine", _longest_first, needs=frozenset({need})))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"reserved_output_share": 1.5}, "reserved_output_share = 1.5: must be from 0 to 1"),
        ({"reserved_output_share": 0.5, "prefix_caching": True}, "must be 0 with prefix_caching"),
        (
            {"reserved_output_share": 0.5, "scheduler": "orca", "max_model_len": 9},
            "only with scheduler vllm_v1",
        ),
        ({"swap_ahead_blocks": 3, "scheduler": "ranked"}, "must be 0 without preemption swap"),
        ({"swap_ahead_blocks": -1, "scheduler": "ranked"}, "must be at least 0"),
        ({"scheduler": "multi_bin"}, "must be rank"),
        ({"scheduler": "ranked", "order": "priority"}, "must be fcfs"),
        ({"scheduler": "static", "watermark": 0.1}, "only with scheduler sarathi or vllm_v0 or vllm_v1 or"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Engine(64, 1, 64, 4, **rules)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_blocks_set_aside_keep_from_preempting(share: float) -> None:
    """With all of every output limit set aside nobody is preempted, with none of it many are."""
    engine = Engine(256, 32, 60, 4, reserved_output_share=share)
    rng = np.random.default_rng(0)
    workload = Workload("bunch", np.sort(rng.random(60)), rng.integers(1, 30, 60), rng.integers(1, 60, 60))
    case = Case(workload, engine, dyadic_cost(engine), 1, [0] * 60)
    preempted = check_equal(case, None)
    assert (preempted > 20) if share == 0.0 else (preempted == 0 if share == 1.0 else preempted < 60)
