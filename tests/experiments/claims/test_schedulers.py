"""What the claims of engine schedulers compute, on cases with known answers."""

import numpy as np
import pytest

from servegym.agents.schedulers import make_scheduler
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.workloads import LengthTable, Workload, find_data
from servegym.experiments.claims import fastserve, larry, learning_to_rank, multi_bin, one_engine, ssjf, trail
from servegym.experiments.claims.claim import Paper

MODULES = (fastserve, larry, learning_to_rank, multi_bin, ssjf, trail)
needs_sharegpt = pytest.mark.skipif(find_data(one_engine.SHAREGPT) is None, reason="needs ShareGPT's lengths")
needs_azure = pytest.mark.skipif(find_data(larry.AZURE) is None, reason="needs the Azure trace")


def workload_of(arrival_s: list[float], output_tokens: list[int]) -> Workload:
    """Requests with prompts of one token."""
    outputs = np.array(output_tokens, np.int32)
    return Workload("by hand", np.array(arrival_s), np.ones_like(outputs), outputs)


def one_seat() -> one_engine.OneEngine:
    """Iterations of 1 s for one request at a time."""
    engine = Engine(max_num_batched_tokens=8, max_num_seqs=1, num_kv_blocks=100)
    return one_engine.OneEngine(
        engine, linear_iteration_cost(max_num_batched_tokens=8, max_num_seqs=1, overhead_s=1.0)
    )


def test_equal_seeds_have_equal_lengths_at_every_rate() -> None:
    table = LengthTable(np.arange(1, 100, dtype=np.int32), np.arange(101, 200, dtype=np.int32))
    slow, fast, burst = (one_engine.requests(table, 50, rate, 3) for rate in (1.0, 2.0, np.inf))
    for other in (fast, burst):
        assert np.array_equal(slow.prompt_tokens, other.prompt_tokens)
        assert np.array_equal(slow.output_tokens, other.output_tokens)
    assert slow.arrival_s == pytest.approx(2 * fast.arrival_s)
    assert not burst.arrival_s.any()
    assert not np.array_equal(slow.output_tokens, one_engine.requests(table, 50, 1.0, 4).output_tokens)


def test_longest_waits_are_those_for_the_first_or_another_token() -> None:
    """The first request decodes at 1 and 2 s, is paused for one of 2 tokens, and goes on; the third waits."""
    outputs = [5, 2, 6]
    workload = workload_of([0.0, 1.5, 1.5], outputs).with_predictions(outputs)
    scheduler = make_scheduler("learning_to_rank", starvation_iterations=0)
    results = one_seat().serve(workload, scheduler, log=True)
    assert results.finish_s.tolist() == [7.0, 4.0, 13.0]
    assert learning_to_rank.longest_waits_s(results).tolist() == [3.0, 1.5, 6.5]


def test_the_capacity_of_bins_is_the_mean_over_bins_of_their_longest() -> None:
    """One bin: lmin + width * B / (B + 1); many: the mean length; four by drawing them."""
    assert multi_bin.capacity(1, 4, 10, 20) == pytest.approx(4 / 18)
    assert multi_bin.capacity(10**6, 4, 10, 20) == pytest.approx(4 / 15, rel=1e-5)
    edges = np.linspace(10, 20, 5)
    drawn = np.random.default_rng(0).uniform(edges[:-1], edges[1:], (100_000, 4, 4))  # batch, request, bin
    assert multi_bin.capacity(4, 4, 10, 20) == pytest.approx(4 / drawn.max(1).mean(), rel=1e-3)


def test_more_bins_serve_more() -> None:
    one, four = (multi_bin.uniform_throughput(bins, 0, 40 * multi_bin.BATCH) for bins in (1, 4))
    assert one == pytest.approx(multi_bin.capacity(1), rel=0.02)
    assert four > 1.2 * one


@pytest.mark.parametrize("batching", ["no batching", "continuous", "static batches"])
def test_a_request_executes_for_its_constant_and_its_tokens(batching: str) -> None:
    workload = workload_of([1.0], [7 + ssjf.CONSTANT_TOKENS])
    results = ssjf.engine_of(batching).serve(workload)
    assert ssjf.mean_completion_s(results, batching) == pytest.approx(0.1 + 0.02 * 7)


def test_a_static_batch_answers_with_its_last_token() -> None:
    """Four at once of 0.1, 0.2, 0.3 and 0.4 s, then one of 0.1 s."""
    workload = workload_of([0.0] * 5, [5, 10, 15, 20, 5])
    results = ssjf.engine_of("static batches").serve(workload)
    assert ssjf.mean_completion_s(results, "static batches") == pytest.approx((4 * 0.4 + 0.5) / 5)
    alone = ssjf.engine_of("no batching").serve(workload)
    assert ssjf.mean_completion_s(alone, "no batching") == pytest.approx((0.1 + 0.3 + 0.6 + 1.0 + 1.1) / 5)


def test_opt_13b_has_its_weights_and_leaves_room_for_some_requests() -> None:
    """12.85 billion parameters, the embedding counted twice here; 11,000 tokens of 800 KiB are 9 GB."""
    assert fastserve.OPT_13B.parameter_count == pytest.approx(12.85e9 + 50_272 * 5_120, rel=0.01)
    assert fastserve.OPT_13B.kv_bytes_per_token == 2 * 40 * 5_120 * 2
    assert 500 < fastserve.gpu("vllm_v1").engine.num_kv_blocks < 1_000


@needs_sharegpt
def test_predictions_of_trail_are_off_by_what_is_published() -> None:
    errors = []
    for seed in range(5):
        workload = trail.workload_of(10.0, seed)
        assert workload.prompt_tokens.max() <= trail.LONGEST_PROMPT
        assert workload.output_tokens.max() <= trail.LONGEST_OUTPUT
        assert workload.prediction_refinement == pytest.approx(0.735, abs=0.001)
        assert workload.predicted_output_tokens is not None
        errors.append(np.abs(workload.predicted_output_tokens - workload.output_tokens).mean())
    assert np.mean(errors) == pytest.approx(trail.ERROR_TOKENS, rel=0.05)


@needs_azure
def test_the_trace_comes_at_the_rate_asked_for_with_a_limit_of_outputs() -> None:
    workload = larry.at_rate(3.0, 0)
    assert workload.rate_rps == pytest.approx(3.0)
    assert workload.max_output_tokens is not None
    assert workload.max_output_tokens.min() == larry.OUTPUT_LIMIT


@pytest.mark.slow
@needs_sharegpt
@needs_azure
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_figure_is_measured(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEEDS", range(1))
    paper: Paper = module.PAPER  # type: ignore[attr-defined]
    for claim in paper.claims:
        measured = claim.measure()
        assert set(measured) == {figure.name for figure in claim.figures}
        assert all(len(values) == 1 and np.isfinite(values).all() for values in measured.values())


def test_limits_beyond_the_clock_are_refused() -> None:
    with pytest.raises(InputError, match="max_num_seqs = 2: must be at most 1"):
        one_seat().serve(workload_of([0.0], [1]), make_scheduler("fastserve", max_batch=2))
