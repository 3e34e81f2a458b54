"""`servegym/Routing-v0` on fleets that are not plain: both forms, and what a policy does in them."""

import copy

import numpy as np
import pytest

from servegym.agents.heuristics import ROUTERS, HeuristicPolicy, make_router
from servegym.envs.checks import check_environment
from servegym.envs.routing.env import RoutingEnv
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.view import (
    PROMPT_TOKENS,
    QUEUED_PREFILL_TOKENS,
    RUNNING,
    UNSEEN_PREFILL_TOKENS,
    UNSEEN_REQUESTS,
    WAITING,
)

ENV_ID = "servegym.envs:servegym/Routing-v0"


def small(*overrides: str) -> Scenario:
    """Episodes of 40 requests; the fleet is up to the overrides."""
    return load_scenario("generated_8xh100", ("scenario.episode.requests=40", *overrides))


def pools(text: str) -> tuple[str, str]:
    """Overrides for these pools."""
    return "scenario.fleet.replicas=null", f"scenario.fleet.pools={text}"


TROUBLED = small(
    *pools("[{replicas: 2}, {replicas: 1, gpu: a100_sxm, engine: {max_num_seqs: 64}}]"),
    "scenario.fleet.failures=[{replica: 1, time_s: 0.05, until_s: 0.12}]",
    "scenario.fleet.scaling=[{time_s: 0.0, replicas: 2}, {time_s: 0.15, replicas: 3}]",
    "scenario.fleet.state_delay_s=0.03",
    "scenario.fleet.dispatch_latency_s=0.002",
    "scenario.workload.clients.cancel_share=0.3",
    "scenario.workload.clients.mean_patience_s=0.1",
)
IN_STAGES = small(
    *pools("[{replicas: 1, role: encode}, {replicas: 2, role: prefill}, {replicas: 2, role: decode}]"),
    "scenario.fleet.link_bytes_per_s=50e9",
    "scenario.fleet.encode_overhead_s=0.01",
    "scenario.workload.clients.image_share=0.3",
)
FLEETS = pytest.mark.parametrize("scenario", [TROUBLED, IN_STAGES], ids=["troubled", "in stages"])


@FLEETS
def test_passes_the_checker(scenario: Scenario) -> None:
    check_environment(ENV_ID, scenario=scenario, episodes=2)


@FLEETS
def test_vector_form_is_equal_to_single_environments(scenario: Scenario) -> None:
    """To the bit, over episodes that end in different steps."""
    rng = np.random.default_rng(0)
    vector, singles = RoutingVectorEnv(3, scenario), [RoutingEnv(scenario) for _ in range(3)]
    observations, _ = vector.reset(seed=5)
    for k, single in enumerate(singles):
        single.reset(seed=5 + k)
    ends = np.zeros(3, int)
    for _ in range(220):
        actions = [int(rng.choice(np.flatnonzero(mask))) for mask in vector.action_masks()]
        observations, rewards, terminations, _, infos = vector.step(np.array(actions))
        for k, single in enumerate(singles):
            observation, reward, terminated, _, info = single.step(actions[k])
            assert (rewards[k], terminations[k]) == (reward, terminated)
            if terminated:
                ends[k] += 1
                np.testing.assert_equal(infos["final_info"]["episode_metrics"][k], info["episode_metrics"])
                observation, _ = single.reset()
            for key in ("request", "replicas"):
                np.testing.assert_array_equal(observations[key][k], observation[key])
    assert (ends >= 2).all()


ON_FLEETS = [
    pytest.param(name, scenario, id=f"{name}-{what}")
    for what, scenario, has in (("troubled", TROUBLED, set()), ("in stages", IN_STAGES, {"roles"}))
    for name in ROUTERS
    if make_router(name).needs <= has and not make_router(name).reads_beyond_observations
]


@pytest.mark.parametrize(("name", "scenario"), ON_FLEETS)
def test_policies_decide_as_the_simulator_does(name: str, scenario: Scenario) -> None:
    """A heuristic over the environment's observations decides as in the compiled simulation."""
    env = RoutingEnv(scenario)
    policy = HeuristicPolicy(make_router(name))
    policy.reset(1, 7)
    observation, _ = env.reset(seed=4)
    workload = copy.deepcopy(scenario).traffic.train_workload(np.random.SeedSequence(4).spawn(1)[0])
    terminated = False
    while not terminated:
        actions = policy.act({key: value[None] for key, value in observation.items()})
        observation, _, terminated, _, info = env.step(actions[0])
    expected = scenario.simulate(workload, make_router(name), seed=7)
    played = env._episodes.results(0)
    np.testing.assert_array_equal(played.replica, expected.replica)
    np.testing.assert_array_equal(played.outcome, expected.outcome)
    np.testing.assert_allclose(played.finish_s, expected.finish_s, rtol=1e-12)
    assert info["episode_metrics"]["num_requests"] == 40


def test_a_request_is_routed_for_every_stage() -> None:
    """With images to encode, then to prefill, then to decode where it has more than one output token."""
    scenario = IN_STAGES
    env = RoutingEnv(scenario, slots=7)
    env.reset(seed=0)
    workload = scenario.traffic.train_workload(np.random.SeedSequence(0).spawn(1)[0])
    roles = np.array([member.role for member in scenario.plan.replicas])
    stages, terminated = [], False
    while not terminated:
        legal = np.flatnonzero(env.action_masks())
        (stage,) = set(roles[legal])
        stages.append(stage)
        terminated = env.step(legal[0])[2]
    assert stages.count("encode") == np.count_nonzero(workload.image_tokens) > 0
    assert stages.count("prefill") == workload.num_requests
    assert stages.count("decode") == np.count_nonzero(workload.output_tokens > 1)
    assert env._episodes.num_routed[0] == workload.num_requests


def test_what_an_agent_has_sent_is_its_to_count() -> None:
    """Of a fleet that it sees as it was before the episode, all that it has sent so far is unseen."""
    env = RoutingEnv(small("scenario.fleet.replicas=3", "scenario.fleet.state_delay_s=1000.0"))
    observation, _ = env.reset(seed=0)
    sent, rng, terminated = np.zeros((3, 2)), np.random.default_rng(0), False
    while not terminated:
        rows = observation["replicas"]
        np.testing.assert_array_equal(rows[:, [UNSEEN_REQUESTS, UNSEEN_PREFILL_TOKENS]], sent)
        assert not rows[:, [RUNNING, WAITING, QUEUED_PREFILL_TOKENS]].any()
        action = int(rng.integers(3))
        sent[action] += 1, observation["request"][PROMPT_TOKENS]
        observation, _, terminated, _, _ = env.step(action)
    assert sent[:, 0].sum() == 40


def test_pictures_of_any_fleet() -> None:
    env = RoutingEnv(TROUBLED, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(np.flatnonzero(env.action_masks())[0])
    frame = env.render()
    assert first is not None and frame is not None and frame.shape == (600, 960, 3)
    assert (first != frame).any()
