"""`servegym/Batching-v0`, the single environment."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.envs.batching.env import BatchingEnv
from servegym.envs.batching.episodes import BatchingEpisodes
from servegym.envs.checks import check_environment
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.decision_view import (
    BLOCKS,
    COMPUTED_TOKENS,
    ENGINE_FEATURES,
    IS_DECODING,
    IS_WAITING,
    KNOWN_TOKENS,
    LEGAL,
    PRIORITY,
    PROMPT_TOKENS,
)
from servegym.envs.sim.llm.decisions import NUM_ROWS, VISIBLE
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.invariants import check_replica
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.workloads import Workload
from tests.envs.sim.llm.test_against_reference import dyadic_cost, random_case

ENV_ID = "servegym.envs:servegym/Batching-v0"
RUN_NOTHING, RUN_QUARTER, RUN_HALF, RUN_ALL = range(NUM_ROWS, NUM_ROWS + 4)


def small(*overrides: str) -> Scenario:
    """Few requests, few seats: queues and preemptions within a short episode."""
    return load_scenario(
        "generated_1xh100",
        (
            "scenario.episode.requests=12",
            "scenario.engine.max_num_seqs=6",
            "scenario.engine.max_num_batched_tokens=512",
            *overrides,
        ),
    )


SMALL = small()


def first_come_first_served(masks: np.ndarray) -> int:
    """vLLM V1's choices: the head of the queue while it fits, then everything."""
    return 0 if masks[0] else RUN_ALL


def episodes_of(workload: Workload, engine: Engine, cost) -> BatchingEpisodes:
    """One episode of any workload, engine and clock."""
    scenario = small()
    scenario.engine, scenario.cost = replace(engine, scheduler="agent"), cost
    episodes = BatchingEpisodes(scenario, 1, workload.num_requests)
    episodes.begin(0, workload)
    return episodes


def play(episodes: BatchingEpisodes, choose) -> Results:
    """Plays an episode to its end, with the invariants checked after every decision."""
    while not episodes.finished[0]:
        episodes.step(np.array([choose(episodes.masks[0])]))
        check_replica(episodes.fleet, 0)
    return episodes.results(0)


def assert_same_outcome(played: Results, expected: Results, rtol: float) -> None:
    np.testing.assert_array_equal(played.preemptions, expected.preemptions)
    for name in ("scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_allclose(getattr(played, name), getattr(expected, name), rtol=rtol, err_msg=name)


@pytest.mark.compiled
@pytest.mark.parametrize("exact", [True, False])
def test_taking_the_head_of_the_queue_is_vllm_v1(exact: bool) -> None:
    """With vLLM's choices the environment does what the simulator's vLLM V1 does, preemptions included.

    Where every time is a multiple of 1/4 s, to the bit; else but for rounding: fewer iterations are skipped.
    """
    preemptions, tested = 0, 0
    for seed in range(200):
        case = random_case(seed)
        engine = case.engine
        if engine.scheduler != "vllm_v1" or engine.order != "fcfs":
            continue
        engine = replace(engine, prefix_caching=False, long_prefill_token_threshold=0)
        workload = replace(case.workload, parent=None, cancel_after_s=None, image_tokens=None)
        cost = case.cost
        if exact:
            cost = dyadic_cost(engine)
            workload = replace(workload, arrival_s=np.round(workload.arrival_s * 4) / 4)
        expected = simulate(workload, make_router("round_robin"), num_replicas=1, engine=engine, cost=cost)
        played = play(episodes_of(workload, engine, cost), first_come_first_served)
        assert_same_outcome(played, expected, rtol=0 if exact else 1e-9)
        preemptions += int(played.preemptions.sum())
        tested += 1
    assert tested > 20
    assert preemptions > 20


def test_random_play_keeps_the_invariants_and_serves_everybody() -> None:
    """Whatever legal decisions are taken, nothing is lost and every request finishes with all its tokens."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        case = random_case(seed)
        if case.engine.scheduler != "vllm_v1":
            continue
        engine = replace(case.engine, prefix_caching=False, long_prefill_token_threshold=0)
        workload = replace(case.workload, parent=None, cancel_after_s=None, image_tokens=None)
        results = play(
            episodes_of(workload, engine, case.cost), lambda masks: rng.choice(np.flatnonzero(masks))
        )
        assert np.isfinite(results.finish_s).all()
        assert (results.scheduled_s >= results.arrival_s).all()
        assert (results.first_token_s <= results.finish_s).all()


ENGINE = Engine(max_num_batched_tokens=8, max_num_seqs=4, num_kv_blocks=10, block_size=4)


def three_requests() -> Workload:
    """Three at once, with prompts of 6, 16 and 5 tokens."""
    return Workload("three", np.zeros(3), np.array([6, 16, 5]), np.array([3, 3, 3]))


def test_any_waiting_request_can_be_admitted() -> None:
    """The last one first: it runs, the others wait on."""
    episodes = episodes_of(three_requests(), ENGINE, dyadic_cost(ENGINE))
    assert episodes.rows[0, 1] == 3  # waiting
    for choice in (2, RUN_ALL):
        episodes.step(np.array([choice]))
    results = play(episodes, first_come_first_served)
    assert results.scheduled_s[2] == 0.0 < results.scheduled_s[0]
    # 5 tokens: 0.5 s + 5 x 0.25 s
    assert results.first_token_s[2] == 1.75


def test_of_a_long_queue_the_head_and_the_shortest_are_seen() -> None:
    random = np.random.default_rng(0)
    workload = Workload("sixty", np.zeros(60), random.integers(1, 30, 60), np.full(60, 5))
    workload = workload.with_predictions(random.integers(1, 30, 60))
    engine = replace(ENGINE, max_num_batched_tokens=256, max_num_seqs=8, num_kv_blocks=256)
    episodes = episodes_of(workload, engine, dyadic_cost(engine))
    tokens = workload.prompt_tokens + workload.predicted_output_tokens
    waiting = list(range(60))
    for admitted in (20, 3, 17, 0):  # of the shortest, and of the head
        shortest = sorted(waiting[16:], key=lambda request_id: tokens[request_id])[:16]
        assert episodes.row_ids[0, :VISIBLE].tolist() == [*waiting[:16], *shortest]
        waiting.remove(int(episodes.row_ids[0, admitted]))
        episodes.step(np.array([admitted]))
    seen = episodes.requests[0, :VISIBLE]
    np.testing.assert_array_equal(
        seen[:, PROMPT_TOKENS], workload.prompt_tokens[episodes.row_ids[0, :VISIBLE]]
    )


def test_the_budget_goes_to_those_admitted_first() -> None:
    """8 tokens: 6 for the first, 2 for the second, and then nobody fits any more."""
    episodes = episodes_of(three_requests(), ENGINE, dyadic_cost(ENGINE))
    episodes.step(np.array([0]))
    assert episodes.masks[0, :2].all()
    episodes.step(np.array([0]))
    assert not episodes.masks[0, :VISIBLE].any()
    episodes.step(np.array([RUN_ALL]))
    rows = episodes.requests[0]
    assert rows[VISIBLE, KNOWN_TOKENS] == 16 and rows[VISIBLE, COMPUTED_TOKENS] == 2
    assert rows[VISIBLE + 1, IS_DECODING] and rows[VISIBLE + 1, COMPUTED_TOKENS] == 6


@pytest.mark.parametrize(("choice", "tokens"), [(RUN_QUARTER, 2), (RUN_HALF, 4), (RUN_ALL, 8)])
def test_share_of_the_budget(choice: int, tokens: int) -> None:
    """A prompt of 16 gets its share of the 8 tokens of an iteration, which lasts accordingly."""
    episodes = episodes_of(three_requests(), ENGINE, dyadic_cost(ENGINE))
    for each in (1, choice):
        episodes.step(np.array([each]))
    assert episodes.requests[0, VISIBLE, COMPUTED_TOKENS] == tokens
    assert episodes.fleet.replicas[0].clock_s == 0.5 + 0.25 * tokens


def test_decodes_alone_run_with_no_share() -> None:
    """Share 0 is legal once somebody decodes; a prefill then waits, and the decode goes on."""
    episodes = episodes_of(three_requests(), ENGINE, dyadic_cost(ENGINE))
    episodes.step(np.array([0]))
    assert not episodes.masks[0, RUN_NOTHING]
    for choice in (RUN_ALL, 0):
        episodes.step(np.array([choice]))
    assert episodes.masks[0, RUN_NOTHING]
    episodes.step(np.array([RUN_NOTHING]))
    rows = episodes.requests[0]
    assert rows[VISIBLE, COMPUTED_TOKENS] == 0
    assert rows[VISIBLE + 1, COMPUTED_TOKENS] == 7


def test_preemption_is_by_recompute_and_to_the_front() -> None:
    """A preempted decode keeps its token, waits first, needs its blocks; one just admitted cannot go."""
    episodes = episodes_of(three_requests(), ENGINE, dyadic_cost(ENGINE))
    for choice in (0, RUN_ALL):
        episodes.step(np.array([choice]))
    assert not episodes.masks[0, VISIBLE]  # runs alone
    episodes.step(np.array([1]))
    assert not episodes.masks[0, VISIBLE]  # admitted just now
    assert episodes.masks[0, VISIBLE + 1]
    episodes.step(np.array([VISIBLE + 1]))
    head = episodes.requests[0, 0]
    assert head[IS_WAITING] and head[PROMPT_TOKENS] == 6 and head[KNOWN_TOKENS] == 7
    assert head[BLOCKS] == 2  # needs them again
    results = play(episodes, first_come_first_served)
    assert results.preemptions.tolist() == [1, 0, 0]


def test_blocks_lacking_keep_a_request_out() -> None:
    """Whole prompts must fit: 3 of 5 blocks are taken, 4 are needed for the second, 2 for the third."""
    engine = replace(ENGINE, num_kv_blocks=5)
    episodes = episodes_of(three_requests(), engine, dyadic_cost(engine))
    for choice in (0, RUN_ALL):
        episodes.step(np.array([choice]))
    assert episodes.masks[0, :2].tolist() == [False, True]
    np.testing.assert_array_equal(episodes.requests[0, :, LEGAL] > 0, episodes.masks[0, :NUM_ROWS])


def test_passes_the_checker() -> None:
    check_environment(ENV_ID, scenario=SMALL, episodes=2)


@pytest.mark.parametrize("action", [-1, 68, 31, RUN_ALL])
def test_illegal_action_is_refused_and_changes_nothing(action: int) -> None:
    """Outside the space, a row without a request, or an empty batch."""
    env = BatchingEnv(SMALL)
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=f"action {action} in environment 0, decision 0: must be one that"):
        env.step(np.int64(action))
    np.testing.assert_array_equal(before["requests"], env._problem.seen(0)["requests"])
    env.step(np.int64(0))


def test_step_after_the_end_is_refused() -> None:
    env = BatchingEnv(SMALL)
    env.reset(seed=0)
    play(env._episodes, first_come_first_served)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.int64(0))


def test_flat_is_what_gymnasium_flattens() -> None:
    """The same numbers in the same order."""
    flat, wrapped = BatchingEnv(SMALL, flat=True), FlattenObservation(BatchingEnv(SMALL))
    assert flat.observation_space.shape == wrapped.observation_space.shape
    for env in (flat, wrapped):
        env.reset(seed=0)
    for action in (0, RUN_ALL):
        observation, expected = flat.step(action)[0], wrapped.step(action)[0]
        np.testing.assert_array_equal(observation, expected)
    assert (observation[:ENGINE_FEATURES] > 0).any()


def test_priorities_and_predictions_are_seen_and_output_lengths_are_not() -> None:
    """Two workloads that differ only in output lengths look the same at the first decisions."""
    seen = []
    for output_tokens in (3, 5):
        workload = replace(
            three_requests(),
            output_tokens=np.full(3, output_tokens),
            priority=np.array([2, 0, 1]),
            predicted_output_tokens=np.array([7, 8, 9]),
        )
        episodes = episodes_of(workload, ENGINE, dyadic_cost(ENGINE))
        seen.append(episodes.rows.copy())
        for choice in (0, RUN_ALL):
            episodes.step(np.array([choice]))
        seen[-1] = np.concatenate([seen[-1], episodes.rows])
    np.testing.assert_array_equal(seen[0], seen[1])
    rows = episodes_of(workload, ENGINE, dyadic_cost(ENGINE)).requests[0]
    assert rows[:3, PRIORITY].tolist() == [2, 0, 1]


def test_scenario_of_several_replicas_is_refused() -> None:
    with pytest.raises(InputError, match=r"replicas = 8: .* must be 1"):
        gym.make(ENV_ID, scenario="generated_8xh100")


def test_the_simulator_refuses_an_engine_without_an_agent() -> None:
    engine = replace(ENGINE, scheduler="agent")
    with pytest.raises(InputError, match=r"engine.scheduler = agent: .*Batching-v0.* must be one of vllm_v1"):
        simulate(
            three_requests(),
            make_router("random"),
            num_replicas=1,
            engine=engine,
            cost=dyadic_cost(engine),
        )
