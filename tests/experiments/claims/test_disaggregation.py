"""What the claims about disaggregation and chunked prefill are measured with, and the cheapest of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.costmodels.iterations.cost import decode_seconds, prefill_attention_seconds, step_seconds
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload
from servegym.experiments.claims import distserve, epd, sarathi, splitwise
from servegym.experiments.claims.claim import Verdict, check


def test_token_gaps_are_iterations_and_add_up_to_the_time_decoding() -> None:
    """The prompt of the second request stalls the first for as long as it takes."""
    engine = Engine(
        max_num_batched_tokens=8, max_num_seqs=2, num_kv_blocks=64, block_size=4, scheduler="vllm_v0"
    )
    cost = linear_iteration_cost(
        max_num_batched_tokens=8, max_num_seqs=2, overhead_s=1.0, per_prefill_pair_s=0.1
    )
    workload = Workload("three", np.array([0.0, 1.5, 30.0]), np.array([2, 6, 3]), np.array([5, 3, 1]))
    results = simulate(
        workload, make_router("round_robin"), num_replicas=1, engine=engine, cost=cost, log=True
    )
    gaps = sarathi.token_gaps_s(results)
    assert len(gaps) == (workload.output_tokens - 1).sum()
    assert gaps.sum() == pytest.approx(np.sum(results.finish_s - results.first_token_s))
    stalled = 1.0 + 1.0 + 0.1 * 6 * 7 / 2
    assert sorted(set(np.round(gaps, 9))) == pytest.approx([1.0, stalled])


def test_token_gaps_of_a_preempted_request_count_its_recomputing() -> None:
    engine = Engine(
        max_num_batched_tokens=32, max_num_seqs=2, num_kv_blocks=8, block_size=2, scheduler="vllm_v1"
    )
    cost = linear_iteration_cost(max_num_batched_tokens=32, max_num_seqs=2, overhead_s=1.0)
    workload = Workload("two", np.zeros(2), np.array([4, 4]), np.array([9, 9]))
    results = simulate(
        workload, make_router("round_robin"), num_replicas=1, engine=engine, cost=cost, log=True
    )
    assert results.preemptions.sum() > 0
    gaps = sarathi.token_gaps_s(results)
    assert len(gaps) == (workload.output_tokens - 1).sum()
    assert gaps.sum() == pytest.approx(np.sum(results.finish_s - results.first_token_s))


def test_splitwise_clock_gives_its_table_back(real_data: Callable[[str], Path]) -> None:
    real_data(splitwise.TABLE)
    for gpu in ("a100_sxm", "h100_sxm"):
        cost, machine = splitwise._cost(gpu), splitwise._machine(gpu)
        for batch, token_s in zip(machine.batches.astype(int), machine.token_s, strict=True):
            assert decode_seconds(cost, batch, 700 * batch) == pytest.approx(token_s, rel=1e-9)
        for prompt, prompt_s in zip(machine.prompts[:5].astype(int), machine.prompt_s, strict=False):
            seconds = step_seconds(cost, prompt, 1) + prefill_attention_seconds(cost, prompt, 0)
            assert seconds == pytest.approx(prompt_s, rel=1e-9)


def test_encoders_that_share_a_request_divide_its_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epd, "REQUESTS", 40)
    encode_s = 8 * epd.TOKENS_PER_FRAME * epd.ENCODE_S_PER_TOKEN
    one, four = (
        epd._mean_ttft_s(epd.Allocation(encode, 1, 1, parallel=True), 8, 1e-4, seed=0) for encode in (1, 4)
    )
    assert one - four == pytest.approx(0.75 * encode_s, rel=1e-6)


def test_cheapest_claims() -> None:
    verdicts = {
        f"{paper.system}: {finding.figure.name}": finding.verdict
        for paper, name in ((sarathi.PAPER, "prefill_in_chunks"), (sarathi.PAPER, "hybrid_batch"))
        for claim in paper.claims
        if claim.name == name
        for finding in check(claim)
    }
    assert verdicts == {
        "Sarathi-Serve: in chunks of 512": Verdict.REPRODUCED,
        "Sarathi-Serve: in chunks of 2048": Verdict.NOT_REPRODUCED,
        f"Sarathi-Serve: {sarathi.HYBRID}": Verdict.REPRODUCED,
    }


@pytest.mark.slow
@pytest.mark.compiled
def test_simulated_claims(real_data: Callable[[str], Path]) -> None:
    real_data(splitwise.TABLE)
    real_data(splitwise.TRACE)
    wanted = {
        "Splitwise": {"same_power_and_cost": Verdict.DIRECTION_ONLY},
        "EPD": {"ttft": Verdict.REPRODUCED},
        "DistServe": {"same_engine_13b": Verdict.NOT_REPRODUCED},
    }
    for paper in (splitwise.PAPER, epd.PAPER, distserve.PAPER):
        for claim in paper.claims:
            if claim.name in wanted[paper.system]:
                assert [finding.verdict for finding in check(claim)] == [wanted[paper.system][claim.name]]
