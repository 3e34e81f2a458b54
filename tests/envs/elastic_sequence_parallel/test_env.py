"""`servegym/ElasticSequenceParallel-v0`, the single environment, and what its episodes do with a fleet."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from servegym.envs.checks import _sample_legal_actions, check_environment
from servegym.envs.elastic_metrics import in_time, normalised_latencies
from servegym.envs.elastic_scenario import ElasticScenario, load_elastic_scenario
from servegym.envs.elastic_sequence_parallel.env import ElasticSequenceParallelEnv
from servegym.envs.elastic_sequence_parallel.episodes import ElasticSequenceParallelEpisodes
from servegym.envs.elastic_sequence_parallel.observation import (
    CHOICE_COLUMNS,
    GLOBAL_COLUMNS,
    GROUP_COLUMNS,
    INSTANCE_COLUMNS,
    REQUEST_COLUMNS,
    legal_actions,
)
from servegym.envs.sim.elastic.fleet import ElasticFleet
from servegym.envs.sim.elastic.simulate import ElasticResults
from servegym.envs.workloads.workload import Workload
from tests.envs.sim.elastic.fleets import fleet, workload

ENV_ID = "servegym.envs:servegym/ElasticSequenceParallel-v0"
GO_ON = 0
COLUMNS = {
    "globals": GLOBAL_COLUMNS,
    "choices": CHOICE_COLUMNS,
    "instances": INSTANCE_COLUMNS,
    "groups": GROUP_COLUMNS,
    "requests": REQUEST_COLUMNS,
}


def small(*overrides: str) -> ElasticScenario:
    """Few requests, that must queue."""
    few = ("scenario.episode.requests=40", "scenario.workload.requests=40", "scenario.workload.rate_rps=2")
    return load_elastic_scenario("mixed_8a800", (*few, *overrides))


def scenario_of(fleet: ElasticFleet, *overrides: str) -> ElasticScenario:
    """Any fleet, with the limits and the objective of a scenario."""
    scenario = small(*overrides)
    scenario.fleet = fleet
    return scenario


def begun(fleet: ElasticFleet, requests: Workload, *overrides: str) -> ElasticSequenceParallelEpisodes:
    """One episode, at its first decision."""
    episodes = ElasticSequenceParallelEpisodes(scenario_of(fleet, *overrides), 1, requests.num_requests)
    episodes.begin(0, requests)
    return episodes


def play(episodes: ElasticSequenceParallelEpisodes, choose) -> float:
    """Plays the first episode to its end; the return."""
    total = 0.0
    while not episodes.finished[0]:
        assert np.array_equal(legal_actions(episodes.observation), episodes.masks)
        assert episodes.masks[0].any()
        episodes.step(choose(episodes))
        total += float(episodes.rewards[0])
    return total


def at_random(seed: int):
    """Any legal action; some of them seldom."""
    rng = np.random.default_rng(seed)
    taste = rng.random(100) ** 3

    def choose(episodes: ElasticSequenceParallelEpisodes) -> np.ndarray:
        legal = np.flatnonzero(episodes.masks[0])
        return np.array([rng.choice(legal, p=taste[legal] / taste[legal].sum())])

    return choose


def seen(episodes: ElasticSequenceParallelEpisodes, part: str, column: str) -> np.ndarray:
    """A column of what is observed of the first episode."""
    return episodes.observation[part][0, ..., [name for name, _ in COLUMNS[part]].index(column)]


def poisson(seed: int, rate_rps: float, count: int, longest: int) -> Workload:
    """Prompts and outputs of all lengths."""
    rng = np.random.default_rng(seed)
    return Workload(
        "poisson",
        np.cumsum(rng.exponential(1 / rate_rps, count)),
        rng.integers(1, longest, count),
        rng.integers(1, 60, count),
    )


def assert_conserved(episodes: ElasticSequenceParallelEpisodes) -> None:
    """Every KV token is held once, on an instance with room, by the only group of its request."""
    state = episodes.simulations[0].state
    held = np.zeros_like(state.used)
    requests: list[int] = []
    members_that_run = np.zeros_like(state.used)
    for group in np.flatnonzero(state.size):
        own = state.requests[group, : state.size[group]]
        requests += own.tolist()
        decoding = state.activity[group] == 2
        behind = state.size[group] * (state.steps[group] + decoding)
        assert state.kv[own].sum() + behind == state.group_kv[group].sum()
        assert not state.group_kv[group][state.member[group] == 0].any()
        held += state.group_kv[group]
        if state.activity[group] != 0:
            members_that_run += state.member[group]
            assert np.array_equal(state.runs_for == group, state.member[group] != 0)
    assert len(set(requests)) == len(requests)
    np.testing.assert_array_equal(held, state.used)
    assert (state.used <= state.kv_tokens).all()
    assert (members_that_run <= 1).all()


@pytest.mark.parametrize("seed", range(12))
def test_random_play_serves_whatever_fits_and_loses_no_token(seed: int) -> None:
    """Small pools, several nodes, any legal actions: no error, no deadlock, the return is minus the cost."""
    rng = np.random.default_rng(seed)
    instances, slots = int(rng.choice([1, 2, 3, 4, 6])), int(rng.choice([80, 200, 1000]))
    any_fleet = fleet(instances, slots, int(rng.choice([1, 2, 4])))
    longest = int(rng.choice([10, slots, instances * slots // 2 + 2]))
    requests = poisson(seed, float(rng.choice([1, 10, 100])), 60, longest)
    limit = f"scenario.manager.max_requests={rng.choice([3, 20, 300])}"
    episodes = begun(any_fleet, requests, limit)
    choose = at_random(seed)

    def checked(episodes: ElasticSequenceParallelEpisodes) -> np.ndarray:
        assert_conserved(episodes)
        return choose(episodes)

    total = play(episodes, checked)
    results = episodes.results(0)
    fits = requests.prompt_tokens + requests.output_tokens <= instances * slots
    np.testing.assert_array_equal(results.rejected, ~fits)
    np.testing.assert_array_equal(results.finished, fits)
    assert not episodes.simulations[0].state.used.any()
    assert total == pytest.approx(-cost_from(results, episodes.scenario), rel=1e-9)


def cost_from(results: ElasticResults, scenario: ElasticScenario) -> float:
    """What the objective weighs, from when requests were served."""
    latencies = normalised_latencies(results)
    total, given, out, late = scenario.weights
    weighed = sum(
        weight * np.nansum(latencies[name])
        for name, weight in (("total_s", total), ("input_s", given), ("output_s", out))
    )
    return float(weighed) + late * float((~in_time(results, scenario)).sum())


def test_the_return_is_minus_what_the_objective_weighs() -> None:
    """Each part alone, in a scenario whose limits some requests do not keep."""
    names = ("total_weight", "input_weight", "output_weight", "late_weight")
    for weighed in names:
        weights = [f"scenario.objective.{name}={float(name == weighed)}" for name in names]
        limits = ("scenario.slo.ttft_least_s=2", "scenario.slo.ttft_times=3", "scenario.slo.tpot_s=0.05")
        scenario = small(*weights, *limits)
        requests = scenario.traffic.test_workload(3)
        episodes = ElasticSequenceParallelEpisodes(scenario, 1, requests.num_requests)
        episodes.begin(0, requests)
        total = play(episodes, at_random(1))
        cost = cost_from(episodes.results(0), scenario)
        assert cost > 0
        assert total == pytest.approx(-cost, rel=1e-9)


def test_each_degree_has_its_batch_and_seconds() -> None:
    """One request of 900 tokens and two of 100 that come at once, to three instances of 480."""
    episodes = begun(fleet(3, 480), workload((0.0, 900, 5), (0.0, 100, 5), (0.0, 120, 5)))
    assert seen(episodes, "globals", "prefill") == 1
    # in order of arrival the first needs two instances; shortest first the two small ones fit one
    assert seen(episodes, "choices", "requests").tolist() == [0, 0, 1, 3, 2, 2, 3, 0, 0, 0]
    assert seen(episodes, "choices", "tokens").tolist() == [0, 0, 900, 1120, 220, 220, 1120, 0, 0, 0]
    assert episodes.masks[0].tolist() == [False, False, True, True, True, True, True, False, False, False]
    seconds = seen(episodes, "choices", "seconds")
    assert seconds[2] == pytest.approx(0.02 + 900 * 5e-5 / 2 + 900**2 * 2e-9 / 2, rel=1e-6)
    assert seconds[4] == pytest.approx(0.02 + 220 * 5e-5 + (100**2 + 120**2) * 2e-9, rel=1e-6)
    assert seen(episodes, "choices", "gain")[4] == pytest.approx(1 / 100 + 1 / 120)
    episodes.step(np.array([4]))  # the two on one instance, then the long one on the others
    assert seen(episodes, "choices", "requests").tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    assert seen(episodes, "instances", "prefills").sum() == 1
    episodes.step(np.array([2]))
    play(episodes, lambda _: np.array([GO_ON]))
    assert episodes.results(0).finished.all()
    assert episodes.results(0).num_prefills == 2


def test_a_prefill_waits_for_iterations_to_end_and_takes_in_whom_it_interrupts() -> None:
    """The group that decodes on the instances of a prefill stops, keeps its KV, and joins it afterwards."""
    requests = workload((0.0, 100, 60), (0.3, 300, 5))
    episodes = begun(fleet(2, 1000), requests)
    episodes.step(np.array([1]))  # the first, on one instance
    while seen(episodes, "globals", "waiting") == 0:
        episodes.step(np.array([GO_ON]))
    state = episodes.simulations[0].state
    assert seen(episodes, "instances", "decodes").sum() == 1
    assert seen(episodes, "instances", "rank").tolist() == [2, 1]
    begins_s = seen(episodes, "choices", "begins_s").copy()
    assert begins_s[1] == 0 < begins_s[2]
    assert seen(episodes, "choices", "interrupted")[1:3].tolist() == [0, 1]
    asked_at_s = state.clock[0]
    episodes.step(np.array([2]))  # both instances
    first = episodes.results(0)
    play(episodes, lambda _: np.array([GO_ON]))
    results = episodes.results(0)
    prefill_s = 0.02 + 300 * 5e-5 / 2 + 300**2 * 2e-9 / 2
    assert results.first_token_s[1] == pytest.approx(asked_at_s + begins_s[2] + prefill_s, rel=1e-6)
    assert first.num_prefills == 2
    assert results.num_pauses == 0
    # the first request stood still meanwhile; afterwards both are decoded together
    assert results.num_decodes == 59


def test_one_less_moves_its_kv_and_frees_an_instance() -> None:
    episodes = begun(fleet(2, 1000), workload((0.0, 1500, 30)))
    episodes.step(np.array([2]))
    assert episodes.finished[0]  # 1,500 tokens do not fit one: there was nothing to ask
    episodes = begun(fleet(2, 1000), workload((0.0, 900, 30), (0.0, 300, 2), (0.2, 50, 30)))
    episodes.step(np.array([2]))  # both first requests on both instances
    while not (seen(episodes, "globals", "prefill") == 0 and episodes.masks[0, -2]):
        episodes.step(np.array([GO_ON]))
    moved = seen(episodes, "choices", "tokens")[-2]
    assert moved > 0
    episodes.step(np.array([2 * 2 + 2]))
    results = episodes.results(0)
    assert (results.num_migrations, results.migrated_tokens) == (1, moved)
    play(episodes, lambda _: np.array([int(np.flatnonzero(episodes.masks[0])[0])]))


def test_groups_join_when_the_iteration_of_the_other_has_ended() -> None:
    episodes = begun(fleet(2, 1000), workload((0.0, 100, 60), (0.3, 100, 60)))
    episodes.step(np.array([1]))
    while seen(episodes, "globals", "waiting") == 0:
        episodes.step(np.array([GO_ON]))
    episodes.step(np.array([1]))  # the second alone on the other instance
    assert seen(episodes, "groups", "asked").tolist() == [0, 1, 0, 0]
    assert episodes.masks[0, -1]
    assert seen(episodes, "choices", "begins_s")[-1] == seen(episodes, "groups", "until_end_s")[0] > 0
    assert seen(episodes, "choices", "requests")[-1] == 2
    episodes.step(np.array([2 * 2 + 3]))
    play(episodes, lambda _: np.array([GO_ON]))
    results = episodes.results(0)
    assert results.num_decodes < 2 * 59  # most iterations are of both


def test_nobody_waits_for_ever() -> None:
    """Nothing runs and nobody is to come: then to wait is not legal."""
    episodes = begun(fleet(2, 1000), workload((0.0, 100, 2), (1.0, 100, 2)))
    assert episodes.masks[0, GO_ON]
    episodes.step(np.array([GO_ON]))
    assert not episodes.masks[0, GO_ON]
    assert seen(episodes, "globals", "waiting") == 2
    play(episodes, lambda _: np.array([int(np.flatnonzero(episodes.masks[0])[0])]))
    assert episodes.results(0).finished.all()


def test_a_request_longer_than_the_fleet_is_rejected_and_late() -> None:
    episodes = begun(fleet(2, 1000), workload((0.0, 1990, 20), (0.1, 100, 2)))
    total = play(episodes, lambda _: np.array([1]))
    results = episodes.results(0)
    assert results.rejected.tolist() == [True, False]
    assert total == pytest.approx(-cost_from(results, episodes.scenario))
    assert total < -episodes.scenario.weights[3]


def test_an_illegal_action_changes_nothing() -> None:
    env = ElasticSequenceParallelEnv(small())
    env.reset(seed=0)
    env.step(int(np.flatnonzero(env.action_masks())[-1]))
    before = {key: value.copy() for key, value in env.unwrapped._episodes.observation.items()}
    illegal = np.flatnonzero(~env.action_masks())
    assert len(illegal)
    for action in (illegal[0], illegal[-1], -1, 12):
        with pytest.raises(
            ValueError, match=f"action {action} in environment 0, decision 1: must be one that"
        ):
            env.step(action)
    for key, value in before.items():
        np.testing.assert_array_equal(env.unwrapped._episodes.observation[key], value)


@pytest.mark.parametrize("flat", [False, True])
def test_environment_checks(flat: bool) -> None:
    check_environment(ENV_ID, scenario=small(), flat=flat)
    check_environment(ENV_ID, scenario=small("scenario.fleet.instances=2"), split="test", flat=flat)


def test_passes_the_checker_of_stable_baselines3() -> None:
    """No error, and no advice but that tables need a policy of their own."""
    with warnings.catch_warnings(record=True) as advice:
        warnings.simplefilter("always")
        env = ElasticSequenceParallelEnv(small())
        _sample_legal_actions(env)
        check_env_for_sb3(env)
    assert all("unconventional shape" in str(warning.message) for warning in advice)


def test_flat_is_the_same_numbers() -> None:
    """As Gymnasium's own flattening has them."""
    flat = ElasticSequenceParallelEnv(small(), flat=True)
    nested = FlattenObservation(gym.make(ENV_ID, scenario=small()))
    one, _ = flat.reset(seed=5)
    other, _ = nested.reset(seed=5)
    for _ in range(20):
        assert np.array_equal(np.sort(one), np.sort(other))  # Gymnasium orders the parts by name
        action = int(np.flatnonzero(flat.action_masks())[-1])
        one, *_ = flat.step(action)
        other, *_ = nested.step(action)
