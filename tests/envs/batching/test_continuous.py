"""`servegym/Batching-v0` with scores as actions: one step is one iteration."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.envs.batching.env import BatchingEnv
from servegym.envs.batching.vector import BatchingVectorEnv
from servegym.envs.checks import check_environment
from servegym.envs.sim.llm.decisions import NUM_ROWS, VISIBLE
from servegym.envs.sim.llm.invariants import check_replica
from servegym.envs.sim.llm.simulate import simulate
from tests.envs.batching.test_env import (
    ENGINE,
    ENV_ID,
    SMALL,
    assert_same_outcome,
    episodes_of,
    three_requests,
)
from tests.envs.sim.llm.test_against_reference import dyadic_cost, random_case


def scores(waiting: list[float], running: list[float] = [], share: float = 1.0) -> np.ndarray:  # noqa: B006
    """float64 (1, NUM_ROWS + 1) with 0 where nothing is given."""
    row = np.zeros((1, NUM_ROWS + 1))
    row[0, : len(waiting)] = waiting
    row[0, VISIBLE : VISIBLE + len(running)] = running
    row[0, NUM_ROWS] = share
    return row


@pytest.mark.compiled
def test_equal_scores_are_vllm_v1() -> None:
    """In the order of the queue while they fit, and all of the budget: the simulator's vLLM V1."""
    preemptions = 0
    for seed in range(60):
        case = random_case(seed)
        if case.engine.scheduler != "vllm_v1" or case.engine.order != "fcfs":
            continue
        engine = replace(case.engine, prefix_caching=False, long_prefill_token_threshold=0)
        cost = dyadic_cost(engine)
        workload = replace(case.workload, arrival_s=np.round(case.workload.arrival_s * 4) / 4)
        expected = simulate(workload, make_router("round_robin"), num_replicas=1, engine=engine, cost=cost)
        episodes = episodes_of(workload, engine, cost)
        while not episodes.finished[0]:
            episodes.step_by_scores(scores([]))
            check_replica(episodes.fleet, 0)
        assert_same_outcome(episodes.results(0), expected, rtol=0)
        preemptions += int(expected.preemptions.sum())
    assert preemptions > 5


def test_the_highest_score_is_admitted_first_and_negative_ones_wait() -> None:
    """Of prompts of 6, 16 and 5 tokens in a budget of 8 the third is first, then the first."""
    episodes = episodes_of(three_requests(), ENGINE, dyadic_cost(ENGINE))
    episodes.step_by_scores(scores([0.3, -0.1, 0.9]))
    replica = episodes.fleet.replicas[0]
    # 8 tokens: 5 for the third, which decodes now, and 3 for the first
    assert (replica.num_running, replica.num_waiting, replica.num_decodes) == (2, 1, 1)
    assert replica.clock_s == 0.5 + 8 * 0.25


def test_an_empty_batch_takes_the_best() -> None:
    """All held back, and no budget: the one with the highest score is served nevertheless."""
    episodes = episodes_of(three_requests(), ENGINE, dyadic_cost(ENGINE))
    episodes.step_by_scores(scores([-0.9, -1.0, -0.2], share=-1.0))
    replica = episodes.fleet.replicas[0]
    assert (replica.num_running, replica.clock_s) == (1, 0.5 + 5 * 0.25)


def test_low_scores_preempt_and_the_share_holds_prefills_back() -> None:
    episodes = episodes_of(three_requests(), ENGINE, dyadic_cost(ENGINE))
    episodes.step_by_scores(scores([0.0, -1.0, 0.5]))
    # running, last admitted first: the first request in its prefill, the third decoding
    episodes.step_by_scores(scores([-1.0], [-0.6, 0.0], share=-1.0))
    replica = episodes.fleet.replicas[0]
    assert (replica.num_running, replica.num_waiting) == (1, 2)
    assert episodes.results(0).preemptions.tolist() == [1, 0, 0]
    assert replica.clock_s == 2.5 + 0.5 + 0.25  # one decode


@pytest.mark.parametrize("value", [1.5, -2.0, np.nan])
def test_scores_out_of_range_are_refused_and_change_nothing(value: float) -> None:
    env = BatchingEnv(SMALL, action="continuous")
    before, _ = env.reset(seed=0)
    action = np.zeros(NUM_ROWS + 1)
    action[3] = value
    with pytest.raises(ValueError, match=f"environment 0, decision 0: has {value}, must be from -1 to 1"):
        env.step(action)
    np.testing.assert_array_equal(before["requests"], env._episodes.requests[0])


def test_unknown_form_is_refused() -> None:
    with pytest.raises(InputError, match="action = both: must be one of discrete, continuous"):
        BatchingEnv(SMALL, action="both")


@pytest.mark.compiled
def test_passes_the_checker() -> None:
    check_environment(ENV_ID, scenario=SMALL, episodes=2, action="continuous")


@pytest.mark.compiled
def test_vector_form_is_equal_to_single_environments() -> None:
    rng = np.random.default_rng(0)
    vector = BatchingVectorEnv(3, SMALL, action="continuous")
    vector.reset(seed=4)
    singles = [BatchingEnv(SMALL, action="continuous") for _ in range(3)]
    for k, single in enumerate(singles):
        single.reset(seed=4 + k)
    ends = 0
    for _ in range(3000):
        actions = rng.uniform(-0.6, 1, (3, NUM_ROWS + 1))
        observations, rewards, terminations, *_ = vector.step(actions)
        for k, single in enumerate(singles):
            observation, reward, terminated, *_ = single.step(actions[k])
            assert (rewards[k], terminations[k]) == (reward, terminated)
            if terminated:
                ends += 1
                observation, _ = single.reset()
            np.testing.assert_array_equal(observations["requests"][k], observation["requests"])
    assert ends >= 3
