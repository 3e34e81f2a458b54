"""EPD's role switching: who takes whose role, and what it is good for when the mix of requests shifts."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.agents.heuristics.epd_role_switching import choose, epd_role_switching
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.cluster.plan import DECODE, ENCODE, MIXED, PREFILL, FleetPlan, Member, Migration
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.cluster.state import CHANGING, OFF
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.rebalancer import BE_DECODE, BE_ENCODE, KEEP, STAY
from servegym.envs.sim.llm.view import ROLE, STANDING
from servegym.envs.workloads import Workload
from tests.agents.heuristics.rows import rows_of

ROLES = [ENCODE, ENCODE, PREFILL, DECODE, DECODE]


class Asking:
    """The rule, asked again and again."""

    def __init__(self, **parameters: float) -> None:
        self.rule = epd_role_switching(**parameters)
        self.memory = np.zeros(self.rule.memory_size)

    def __call__(self, rows: np.ndarray) -> list[int]:
        orders, moves = np.zeros(len(rows), np.int64), np.zeros((len(rows), 2), np.int64)
        random = np.zeros(1, np.uint64)
        assert choose(rows, self.rule.parameters, self.memory, random, moves, orders) == 0
        return orders.tolist()


def test_the_idlest_stage_helps_the_one_with_the_longest_queues() -> None:
    """Decode has 5 waiting a replica, encode 1; the emptier encoder goes. Prefill's only one may not."""
    rows = rows_of(5, role=ROLES, waiting=[2, 0, 0, 6, 4], running=[1, 1, 0, 3, 3])
    assert Asking()(rows) == [KEEP, BE_DECODE, KEEP, KEEP, KEEP]
    rows = rows_of(5, role=ROLES, waiting=[6, 4, 0, 0, 2], running=[1, 1, 0, 3, 3])
    assert Asking()(rows) == [KEEP, KEEP, KEEP, BE_ENCODE, KEEP]


def test_a_short_queue_or_one_among_others_changes_nothing() -> None:
    rows = rows_of(5, role=ROLES, waiting=[1, 1, 0, 4, 3])
    assert Asking()(rows) == [KEEP] * 5  # 3.5 a replica
    assert Asking(queue_above=3.0)(rows) == [KEEP] * 5  # not 4 times 1
    assert Asking(queue_above=3.0, ratio=3.0)(rows) == [BE_DECODE, KEEP, KEEP, KEEP, KEEP]


def test_one_at_a_time_and_not_again_at_once() -> None:
    rows = rows_of(5, role=ROLES, waiting=[0, 0, 0, 9, 9])
    ask = Asking(hold_turns=3)
    given = [ask(rows)[0] for _ in range(5)]
    assert given == [BE_DECODE, KEEP, KEEP, BE_DECODE, KEEP]
    rows[2, STANDING] = CHANGING
    assert Asking()(rows) == [KEEP] * 5


def test_only_active_replicas_with_a_stage_count() -> None:
    rows = rows_of(5, role=ROLES, waiting=[0, 0, 0, 9, 9])
    rows[0, STANDING] = OFF
    assert Asking()(rows) == [KEEP] * 5  # one encoder is left
    rows = rows_of(3, role=[MIXED, MIXED, MIXED], waiting=[0, 0, 99])
    assert Asking()(rows) == [KEEP] * 3


def test_ranges() -> None:
    with pytest.raises(InputError, match="rebalancer.ratio = 0.5: must be at least 1"):
        epd_role_switching(ratio=0.5)


def test_switching_follows_a_shift_from_images_to_text() -> None:
    """Images first, one token out; then prompts without, and long outputs, for which encoders do nothing."""
    engine = Engine(max_num_batched_tokens=512, max_num_seqs=8, num_kv_blocks=400)
    cost = linear_iteration_cost(
        max_num_batched_tokens=512, max_num_seqs=8, overhead_s=0.02, per_token_s=0.0002
    )
    link = {"link_bytes_per_s": 1e9, "kv_bytes_per_block": 1e6}
    roles = ["encode"] * 5 + ["prefill", "decode", "decode"]
    members = [
        Member(role=role, **link) if role == "encode" else Member(engine, cost, role, **link)
        for role in roles
    ]
    rng = np.random.default_rng(0)
    count = 120
    images = np.where(np.arange(2 * count) < count, 200, 0)
    workload = Workload(
        "shift",
        np.cumsum(rng.exponential(0.13, 2 * count)),
        images + rng.integers(20, 60, 2 * count),
        np.where(images > 0, 2, rng.integers(100, 300, 2 * count)),
        image_tokens=images,
    )
    rule, held = epd_role_switching(), []

    def watch(replicas, *arguments):
        held.append(np.bincount(replicas[:, ROLE].astype(int), minlength=4).tolist())
        return rule.choose(replicas, *arguments)

    fixed, switched = (
        simulate_fleet(
            workload,
            make_router("jsq"),
            FleetPlan(
                members,
                encode_s_per_token=0.5 / 200,
                role_switch_s=0.7,
                migration=Migration(each, every_s=1.0),
            ),
        )
        for each in (STAY, replace(rule, choose=watch))
    )
    assert held[0] == [0, 1, 2, 5] and held[-1][DECODE] > 2, held[-1]
    text = images == 0
    latency_s = [results.finish_s - results.arrival_s for results in (fixed, switched)]
    assert latency_s[1][text].mean() < 0.6 * latency_s[0][text].mean()
    assert latency_s[1][~text].mean() < 1.2 * latency_s[0][~text].mean()
