"""The features that an engine policy is given in a serving system are those it was trained on."""

import numpy as np
import pytest

from servegym.agents.serving.artifact import schema
from servegym.agents.serving.contracts import EngineLimits, EngineState, fault_of_plan
from servegym.agents.serving.engine import planned_engine
from servegym.agents.serving.engine.planned_engine import PlannedEngine
from servegym.envs.batching.episodes import BatchingEpisodes
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm import decision_view, decisions
from servegym.envs.sim.llm.batch import computed_tokens
from servegym.envs.sim.llm.memory import blocks_for, free_now
from servegym.envs.sim.llm.state import DECODING, NOBODY, Fleet


def state_of(fleet: Fleet) -> EngineState:
    """What an engine plugin could tell of replica 0."""
    replica = fleet.replicas[0]
    engine = fleet.engines[replica.group]
    limits = EngineLimits(
        engine.max_num_batched_tokens,
        engine.max_num_seqs,
        engine.block_size,
        engine.num_kv_blocks,
        bool(engine.reserve_full_prompt),
    )

    def row(request_id: int, runs: bool) -> list[float]:
        request = fleet.requests[request_id]
        computed = computed_tokens(fleet, 0, request_id) if runs else 0
        decodes = request.state == DECODING
        generated = computed + 1 - request.prompt_tokens if decodes else request.generated
        held = blocks_for(computed, engine.block_size) if decodes else request.blocks
        age_s = replica.clock_s - request.arrival_s
        numbers = [request.prompt_tokens, generated, computed, request.predicted_tokens, age_s]
        return [*numbers, request.priority, held if runs else 0]

    def walk(first: int, runs: bool) -> np.ndarray:
        rows = []
        while first != NOBODY:
            rows.append(row(first, runs))
            first = fleet.requests[first].next
        return np.array(rows, np.float64).reshape(-1, 7)

    waiting, running = walk(replica.waiting_first, False), walk(replica.running_first, True)
    return EngineState(limits, waiting, running, int(free_now(fleet, 0)))


@pytest.mark.compiled
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("engine.num_kv_blocks=420", "engine.max_num_seqs=24"),
        ("engine.reserve_full_prompt=false", "engine.num_kv_blocks=600", "workload.predictor=exact"),
    ],
)
def test_random_decisions_see_what_the_gym_shows(overrides):
    scenario = load_scenario(
        "generated_1xh100", ("scenario.episode.requests=200", *(f"scenario.{each}" for each in overrides))
    )
    episodes = BatchingEpisodes(scenario, 1, scenario.traffic.max_requests("train"))
    episodes.begin(0, scenario.traffic.train_workload(np.random.SeedSequence(3)))
    rng = np.random.default_rng(4)
    engine, seen = None, {"decisions": 0, "preempted": 0, "long queues": 0, "admitted": 0}
    while not episodes.finished[0]:
        replica = episodes.fleet.replicas[0]
        if engine is None:
            engine = PlannedEngine(state_of(episodes.fleet))
        engine.look()
        split = schema.ENGINE_FEATURES
        np.testing.assert_array_equal(engine.engine, episodes.rows[0, : len(split)])
        np.testing.assert_array_equal(engine.requests, episodes.requests[0])
        mask = episodes.masks[0]
        shares = [engine.may_run(share) for share in planned_engine.SHARES]
        np.testing.assert_array_equal(engine.requests[:, -1] > 0, mask[: decisions.NUM_ROWS])
        np.testing.assert_array_equal(shares, mask[decisions.NUM_ROWS :])
        legal = np.flatnonzero(mask)
        odds = np.where(legal < 32, 4.0, np.where(legal < 64, 0.1, 2.0))
        choice = int(rng.choice(legal, p=odds / odds.sum()))
        seen["decisions"] += 1
        seen["admitted"] += choice < 32
        seen["preempted"] += 32 <= choice < 64
        seen["long queues"] += replica.num_waiting > 32
        share = engine.decide(choice)
        if share is not None:
            assert not fault_of_plan(engine.plan(share), engine.state)
            engine = None
        episodes.step(np.array([choice]))
    assert seen["decisions"] > 500 and seen["preempted"] > 10 and seen["admitted"] > 100
    assert not overrides or seen["long queues"] > 50


def test_the_numbers_of_decisions_are_the_gyms():
    assert planned_engine.SHARES == decisions.SHARES
    assert planned_engine.NUM_CHOICES == decisions.NUM_CHOICES
    assert (planned_engine.VISIBLE, planned_engine.OLDEST) == (decisions.VISIBLE, decision_view.OLDEST)
