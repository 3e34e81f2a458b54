"""`servegym/TwoLevel-v0`, the single environment."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.envs.batching.env import BatchingEnv
from servegym.envs.checks import check_environment
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS
from servegym.envs.sim.llm.invariants import check_replica
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.two_level.env import TwoLevelEnv
from servegym.envs.two_level.episodes import TwoLevelEpisodes
from servegym.envs.two_level.observation import ROUTING
from tests.envs.sim.llm.test_against_reference import dyadic_cost, random_case

ENV_ID = "servegym.envs:servegym/TwoLevel-v0"
RUN_ALL = NUM_CHOICES - 1


def small(replicas: int = 2) -> Scenario:
    """Few requests and seats."""
    return load_scenario(
        "generated_8xh100",
        (
            "scenario.episode.requests=12",
            f"scenario.fleet.replicas={replicas}",
            "scenario.engine.max_num_seqs=6",
            "scenario.engine.max_num_batched_tokens=512",
        ),
    )


SMALL = small()


def first_come_first_served(episodes: TwoLevelEpisodes) -> int:
    """vLLM V1's choice for the replica that is due."""
    count = episodes.num_replicas
    return count if episodes.masks[0, count] else count + RUN_ALL


def play_round_robin(episodes: TwoLevelEpisodes) -> Results:
    """In turn to the replicas, each scheduled as vLLM V1 does; invariants checked after every decision."""
    routed = 0
    while not episodes.finished[0]:
        if episodes.observation["level"][0] == ROUTING:
            action = routed % episodes.num_replicas
            routed += 1
        else:
            action = first_come_first_served(episodes)
        now_s = episodes.episodes[0].now_s
        episodes.step(np.array([action]))
        assert episodes.episodes[0].now_s >= now_s
        for replica_id in range(episodes.num_replicas):
            check_replica(episodes.fleet, replica_id)
    return episodes.results(0)


@pytest.mark.compiled
@pytest.mark.parametrize("exact", [True, False])
def test_round_robin_and_vllm_v1(exact: bool) -> None:
    """The simulator's round robin over vLLM V1: to the bit where times are multiples of 1/4 s.

    Else but for rounding, since the environment skips no iterations.
    """
    tested = 0
    for seed in range(80):
        case = random_case(seed)
        if case.engine.scheduler != "vllm_v1" or case.engine.order != "fcfs":
            continue
        engine = replace(case.engine, prefix_caching=False, long_prefill_token_threshold=0)
        workload, cost = case.workload, case.cost
        if exact:
            cost = dyadic_cost(engine)
            workload = replace(workload, arrival_s=np.round(workload.arrival_s * 4) / 4)
        router = make_router("round_robin")
        expected = simulate(workload, router, num_replicas=case.num_replicas, engine=engine, cost=cost)
        scenario = small(case.num_replicas)
        scenario.engine, scenario.cost = engine, cost
        episodes = TwoLevelEpisodes(scenario, 1, workload.num_requests)
        episodes.begin(0, workload)
        played = play_round_robin(episodes)
        np.testing.assert_array_equal(played.replica, expected.replica)
        np.testing.assert_array_equal(played.preemptions, expected.preemptions)
        for name in ("scheduled_s", "first_token_s", "finish_s"):
            rtol = 0 if exact else 1e-9
            np.testing.assert_allclose(getattr(played, name), getattr(expected, name), rtol=rtol)
        tested += 1
    assert tested > 10


def test_one_replica_is_batching() -> None:
    """With nothing to route, the scheduling decisions and what they see are those of Batching."""
    scenario = small(1)
    env, alone = TwoLevelEnv(scenario), BatchingEnv(scenario)
    observation, _ = env.reset(seed=3)
    expected, _ = alone.reset(seed=3)
    terminated, rng, total, expected_total, reward = False, np.random.default_rng(0), 0.0, 0.0, 0.0
    while not terminated:
        if observation["level"] == ROUTING:
            observation, reward, terminated, _, _ = env.step(np.int64(0))
            total += reward
            continue
        for key in ("engine", "requests"):
            np.testing.assert_array_equal(observation[key], expected[key])
        choice = rng.choice(np.flatnonzero(alone.action_masks()))
        np.testing.assert_array_equal(env.action_masks()[1:], alone.action_masks())
        expected, reward, *_ = alone.step(choice)
        expected_total += reward
        observation, reward, terminated, _, _ = env.step(choice + 1)
        total += reward
    assert total == pytest.approx(expected_total, rel=1e-12)


@pytest.mark.compiled
def test_passes_the_checker() -> None:
    check_environment(ENV_ID, scenario=SMALL, episodes=2)
    check_environment(ENV_ID, scenario=SMALL, flat=True)


def test_only_the_level_that_is_due_is_legal() -> None:
    """First a request is to be routed; then its replica, at the same instant, is to be scheduled."""
    env = TwoLevelEnv(SMALL)
    observation, _ = env.reset(seed=0)
    assert observation["level"] == 0 and observation["request"][0] > 0
    assert env.action_masks().tolist() == [True] * 2 + [False] * NUM_CHOICES
    with pytest.raises(ValueError, match="action 2 in environment 0, decision 0: must be one that"):
        env.step(np.int64(2))
    observation, *_ = env.step(np.int64(1))
    assert observation["level"] == 1 and observation["replica"] == 1
    assert np.flatnonzero(env.action_masks()).tolist() == [2]  # to admit it; an empty batch cannot run
    observation, *_ = env.step(np.int64(2))
    assert observation["level"] == 1 and not env.action_masks()[:2].any()
    assert np.flatnonzero(env.action_masks()).tolist() == [2 + NUM_ROWS + share for share in (1, 2, 3)]


def test_step_after_the_end_is_refused() -> None:
    env = TwoLevelEnv(SMALL)
    env.reset(seed=0)
    play_round_robin(env._episodes)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.int64(0))
