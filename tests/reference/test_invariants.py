"""Random runs: the assertions of the simulator hold, and what they are about does happen."""

from types import SimpleNamespace

import numpy as np
import pytest

from servegym.envs.sim.llm.ranking import GENERATED_TOKENS, PROMPT_TOKENS
from tests.reference.engine import SCHEDULERS, Engine
from tests.reference.hand import by, cost_of, shortest_queue
from tests.reference.settings import Failure, ReplicaSpec
from tests.reference.simulate import simulate_fleet

COST = cost_of(overhead_s=0.25, token_s=0.125)
RANKINGS = {
    "ranked": by(lambda row: row[PROMPT_TOKENS] + 2 * row[GENERATED_TOKENS]),
    "multi_bin": by(lambda row: row[PROMPT_TOKENS] // 6, "queue"),
    "vllm_v1": by(lambda row: row[PROMPT_TOKENS] - 2 * row[GENERATED_TOKENS], "queue"),
}


def random_workload(random, size):
    """Prompts share prefixes of two levels; some requests are sessions, some are cancelled."""
    prompt, output = random.integers(1, 16, size), random.integers(1, 20, size)
    parent = np.full(size, -1)
    for i in range(2, size):
        j = int(random.integers(0, i))
        if random.random() < 0.2 and prompt[j] + output[j] + 4 < 40:
            parent[i], prompt[i] = j, prompt[j] + output[j] + random.integers(0, 4)
    ids, offsets = [], [0]
    for i in range(size):
        group, many = int(random.integers(0, 3)), int(prompt[i]) // 4
        mine = [10 * group + level for level in range(min(many, 2))] if parent[i] < 0 else []
        ids += mine
        offsets.append(len(ids))
    return SimpleNamespace(
        arrival_s=np.sort(random.integers(0, 2 * size, size) / 8),
        prompt_tokens=prompt,
        output_tokens=output,
        max_output_tokens=output + random.integers(0, 3, size),
        priority=random.integers(0, 3, size),
        parent=parent,
        think_s=random.integers(0, 8, size) / 4,
        cancel_after_s=np.where(random.random(size) < 0.1, random.integers(1, 80, size) / 4, np.inf),
        image_tokens=np.where(random.random(size) < 0.2, 1, 0),
        prefix_ids=ids,
        prefix_offsets=offsets,
        prefix_block_tokens=4,
    )


def random_engine(random, scheduler, order=None):
    """Blocks for hardly more than the longest request."""
    caches = scheduler in ("vllm_v1", "sglang") and random.random() < 0.7
    whole_prompts = scheduler in ("vllm_v0", "orca", "lightllm", "static", "multi_bin")
    block_size = int(random.choice([1, 2, 4]))
    max_num_seqs = int(random.integers(3, 7))
    spare = max_num_seqs if scheduler == "lightllm" else 1
    swap_ahead = int(random.choice([0, 4])) if scheduler == "ranked" else 0
    careful = scheduler == "vllm_v1" and random.random() < 0.5
    orders = ["fcfs", "priority", "rank"] if scheduler == "vllm_v1" else ["fcfs", "priority"]
    return Engine(
        max_num_batched_tokens=64 if whole_prompts else int(random.integers(7, 20)),
        max_num_seqs=max_num_seqs,
        block_size=block_size,
        num_kv_blocks=64 // block_size + (4 if careful else spare),
        scheduler=scheduler,
        order=order or ("rank" if scheduler == "multi_bin" else str(random.choice(orders))),
        prefix_caching=caches,
        long_prefill_token_threshold=int(random.choice([0, 4])),
        reserve_full_prompt=bool(random.random() < 0.5),
        watermark=0.05 if careful else None,
        reserved_output_share=float(random.choice([0.25, 1.0])) if careful and not caches else 0.0,
        preemption="swap" if swap_ahead else str(random.choice(["recompute", "swap"])),
        swap_blocks=16,
        swap_s_per_block=0.125,
        swap_ahead_blocks=swap_ahead,
        max_model_len=64 if scheduler in ("orca", "lightllm", "sglang") else 0,
        decodes_between_prefills=3,
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_serves_everything(scheduler):
    """Also under shortage of blocks: those that may preempt do."""
    preempted = hits = cancelled = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        spec = ReplicaSpec(random_engine(random, scheduler), COST)
        workload = random_workload(random, 30)
        result = simulate_fleet(
            workload, shortest_queue, replicas=[spec, spec], ranking=RANKINGS.get(scheduler)
        )
        preempted += result.preemptions.sum()
        hits += result.hit_tokens.sum()
        cancelled += result.outcome.count("cancelled")
        finished = np.array(result.outcome) == "finished"
        assert np.isfinite(result.finish_s[finished]).all()
    assert cancelled > 0
    if scheduler != "sglang":  # see below
        assert (preempted > 0) == (scheduler in ("vllm_v1", "sarathi", "vllm_v0", "ranked"))
    assert (hits > 0) == (scheduler in ("vllm_v1", "sglang"))


def test_nobody_is_preempted_where_the_whole_output_is_set_aside():
    preempted = {0.0: 0, 1.0: 0}
    for seed in range(6):
        for share in preempted:
            engine = Engine(16, 6, 1 + seed % 3, 64, reserved_output_share=share)
            workload = random_workload(np.random.default_rng(seed), 30)
            result = simulate_fleet(workload, lambda *_: 0, replicas=[ReplicaSpec(engine, COST)])
            preempted[share] += result.preemptions.sum()
    assert preempted[0.0] > 0
    assert preempted[1.0] == 0


@pytest.mark.parametrize("prefix_caching", [False, True])
def test_sglang_retracts_where_it_has_promised_too_little(prefix_caching):
    """Many short prompts with long outputs; some long prompts come in chunks."""
    preempted = chunks = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        engine = Engine(16, 12, 1 + seed % 2, 64, scheduler="sglang", prefix_caching=prefix_caching)
        output = random.integers(12, 24, 40)
        workload = SimpleNamespace(
            arrival_s=np.sort(random.integers(0, 100, 40) / 8),
            prompt_tokens=random.choice([1, 2, 3, 20], 40),
            output_tokens=output,
            max_output_tokens=output,
        )
        result = simulate_fleet(workload, shortest_queue, replicas=[ReplicaSpec(engine, COST)])
        preempted += result.preemptions.sum()
        chunks += sum(e.is_prefill and e.computed > 0 for i in result.iterations[0] for e in i.entries)
    assert preempted > 10
    assert chunks > 10


@pytest.mark.parametrize("seed", range(20))
def test_fleet_of_everything_loses_nothing(seed):
    random = np.random.default_rng(seed)
    split = seed % 2 == 0
    link = {"link_latency_s": 0.125, "link_bytes_per_s": 8.0, "kv_bytes_per_block": 1.0}
    roles = ["prefill", "prefill", "decode", "decode", "mixed", "encode"] if split else ["mixed"] * 4
    engines = [random_engine(random, "vllm_v1") for _ in roles]
    replicas = [ReplicaSpec(engine, COST, role, **link) for engine, role in zip(engines, roles, strict=True)]

    def choose(rows, request):
        return int(random.choice(np.flatnonzero(rows[:, 0])))

    def rebalance(now_s, fleet):
        running = [r for m in fleet.replicas if m.role != "encode" for r in m.running]
        if not running:
            return []
        return [(running[random.integers(len(running))], int(random.integers(len(roles))))]

    workload = random_workload(random, 40)
    times = np.sort(random.integers(0, 160, 4) / 8)
    result = simulate_fleet(
        workload,
        choose,
        replicas=replicas,
        ranking=RANKINGS["vllm_v1"],
        dispatch_latency_s=float(random.choice([0.0, 0.25])),
        state_delay_s=float(random.choice([0.0, 0.5])),
        encode_overhead_s=0.25,
        encode_s_per_token=0.125,
        failures=[Failure(int(random.integers(len(roles))), t, t + 2) for t in times[:2]],
        scaling=[(float(times[2]), len(roles) - 1), (float(times[3]), len(roles))],
        startup_s=0.5,
        rebalance=rebalance,
        rebalance_s=0.5,
        last_stage_blocks=1,
    )
    assert set(result.outcome) <= {"finished", "cancelled", "lost"}
    assert result.outcome.count("finished") > 20
    lost = [i for i, outcome in enumerate(result.outcome) if outcome == "lost"]
    for i in lost:  # only follow-ups of those that were cancelled or lost
        assert result.outcome[workload.parent[i]] in ("cancelled", "lost")
    TOTALS.append((result.migrations.sum(), result.retries.sum(), result.preemptions.sum()))


TOTALS: list[tuple[int, int, int]] = []


def test_the_fleets_above_migrate_retry_and_preempt():
    assert len(TOTALS) == 20
    assert np.min(np.sum(TOTALS, axis=0)) > 10
