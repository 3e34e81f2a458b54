"""Rankings on any fleet: cancellation, failures, sessions, migration; equal to the naive reference."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.envs.sim.llm.cluster.plan import Member
from servegym.envs.sim.llm.engine import Engine
from tests.conftest import examples
from tests.envs.sim.llm.cluster.cases import FleetCase, random_fleet
from tests.envs.sim.llm.cluster.test_against_reference import check_equal
from tests.envs.sim.llm.test_rankings import drawn_ranking

FEATURES = frozenset({"dispatch", "sessions", "cancel", "failures", "scaling", "stale"})


def ranked_fleet(seed: int, ranks: str) -> FleetCase:
    """A random fleet of which some engines, or all, use a drawn ranking."""
    rng = np.random.default_rng(seed)
    features = FEATURES | ({"roles", "migration"} if ranks == "queue" and rng.random() < 0.5 else set())
    case = random_fleet(seed, features)
    share = rng.choice([0.5, 1.0])
    members = [member if rng.random() > share else _with(member, ranks, rng) for member in case.plan.replicas]
    return replace(case, plan=replace(case.plan, replicas=members), ranking=drawn_ranking(rng, ranks))


def _with(member: Member, ranks: str, rng: np.random.Generator) -> Member:
    engine = member.engine
    if engine is None or (ranks == "queue" and engine.scheduler == "sglang"):
        return member
    if ranks == "queue":
        return replace(member, engine=replace(engine, order="rank"))
    swap = {"preemption": "swap", "swap_blocks": 9, "swap_s_per_block": 0.25} if rng.random() < 0.5 else {}
    seats = min(engine.max_num_seqs, engine.max_num_batched_tokens)
    limits = (engine.max_num_batched_tokens, seats, engine.num_kv_blocks, engine.block_size)
    return replace(member, engine=Engine(*limits, scheduler="ranked", **swap))


@pytest.mark.parametrize("ranks", ["queue", "batch"])
@given(seed=st.integers(0, 2**63 - 1))
@examples(100)
def test_equal_on_random_fleets(ranks: str, seed: int) -> None:
    """Results and everything a router sees; what a ranking remembers is lost with a replica."""
    check_equal(ranked_fleet(seed, ranks))
