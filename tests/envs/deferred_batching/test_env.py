"""`servegym/DeferredBatching-v0`, the single environment, and what its episodes share with the simulator."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from servegym.agents.batch_schedulers import make_batch_scheduler
from servegym.agents.deferred_batching import Frontrun
from servegym.costmodels.batch import LinearBatchLatency
from servegym.envs.batch_scenario import BatchScenario, load_batch_scenario
from servegym.envs.batch_scenario.config import BatchObjectiveConfig
from servegym.envs.checks import _sample_legal_actions, check_environment
from servegym.envs.deferred_batching.env import DeferredBatchingEnv
from servegym.envs.deferred_batching.episodes import DeferredBatchingEpisodes
from servegym.envs.deferred_batching.observation import (
    CANDIDATE_COLUMNS,
    GPU_COLUMNS,
    MODEL_COLUMNS,
    legal_actions,
)
from servegym.envs.sim.batch.autoscaler import Autoscaler, compiled_autoscaler
from servegym.envs.sim.batch.cluster import BatchCluster, Delays
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.simulate import BatchResults, simulate_batches
from servegym.envs.sim.batch.state import DROPPED, GOOD
from servegym.envs.workloads.batch_workload import BatchWorkload

ENV_ID = "servegym.envs:servegym/DeferredBatching-v0"
WAIT = 0


def small(*overrides: str) -> BatchScenario:
    """Few requests to few GPUs, more than they can serve."""
    few = (
        "scenario.episode.requests=100",
        "scenario.workload.requests=100",
        "scenario.workload.rate_rps=2500",
        "scenario.fleet.num_gpus=3",
    )
    return load_batch_scenario("resnet50_8gpu", (*few, *overrides))


def models(count: int, slo_s: float = 0.025) -> tuple[ServedModel, ...]:
    """Each slower than the one before, with a longer objective."""
    return tuple(
        ServedModel.of_law(
            f"model{number}",
            LinearBatchLatency(1.053e-3 * (1 + 0.3 * number), 5.072e-3),
            24,
            slo_s * (1 + 0.5 * number),
            energy_j=tuple(0.1 + 0.05 * size for size in range(1, 25)),
            load_s=0.02,
            memory_bytes=1.0,
        )
        for number in range(count)
    )


def poisson(seed: int, rate_rps: float, count: int, num_models: int) -> BatchWorkload:
    """Requests of all models alike."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1 / rate_rps, count))
    return BatchWorkload("poisson", arrival_s, rng.integers(0, num_models, count).astype(np.int32))


def scenario_of(cluster: BatchCluster, **weights: float) -> BatchScenario:
    """Any cluster, and an objective."""
    scenario = small()
    scenario.cluster, scenario.objective = cluster, BatchObjectiveConfig(**weights)
    return scenario


def play(episodes: DeferredBatchingEpisodes, choose) -> float:
    """Plays the first episode to its end; the return."""
    total = 0.0
    while not episodes.finished[0]:
        assert np.array_equal(legal_actions(episodes.observation), episodes.masks)
        episodes.step(choose(episodes))
        total += float(episodes.rewards[0])
    return total


def played(
    cluster: BatchCluster, workload: BatchWorkload, choose, **weights: float
) -> tuple[BatchResults, float]:
    """An episode of any workload, and its return."""
    episodes = DeferredBatchingEpisodes(scenario_of(cluster, **weights), 1, workload.num_requests)
    episodes.begin(0, workload)
    total = play(episodes, choose)
    return episodes.results(0), total


def frontrun(episodes: DeferredBatchingEpisodes) -> np.ndarray:
    return Frontrun().act(episodes.observation)


def at_random(seed: int):
    """Any legal action."""
    rng = np.random.default_rng(seed)
    return lambda episodes: np.array([rng.choice(np.flatnonzero(episodes.masks[0]))])


def seen(episodes: DeferredBatchingEpisodes, part: str, column: str) -> np.ndarray:
    """A column of what is observed of the first episode."""
    columns = {"candidate": CANDIDATE_COLUMNS, "models": MODEL_COLUMNS, "gpus": GPU_COLUMNS}[part]
    return episodes.observation[part][0, ..., [name for name, _ in columns].index(column)]


@pytest.mark.parametrize("num_models", [1, 4])
@pytest.mark.parametrize("rate_rps", [3000, 5400, 8000])
def test_frontrun_is_symphony(num_models: int, rate_rps: float) -> None:
    """Without delays the environment played by Symphony's rule does what the scheduler does, to the bit.

    Below its goodput, at it, and where most requests must be dropped, with one model and with a pool of them.
    """
    cluster = BatchCluster(models(num_models), 8)
    for seed in range(2):
        workload = poisson(seed, rate_rps, 1200, num_models)
        expected = simulate_batches(cluster, workload, make_batch_scheduler("symphony"))
        results, total = played(cluster, workload, frontrun)
        for name in ("start_s", "end_s", "gpu", "batch_size", "outcome"):
            np.testing.assert_array_equal(getattr(results, name), getattr(expected, name), err_msg=name)
        assert total == -round(expected.bad_share * workload.num_requests)


def test_random_play_never_errs_and_is_far_worse() -> None:
    """With delays, limited memory and GPUs that come and go, whatever is legal can be done."""

    @compiled_autoscaler
    def up_and_down(signal, parameters, memory, wanted):
        memory[0] += 1
        wanted[0] = 1 + int(memory[0]) % 4

    scaler = Autoscaler("up_and_down", up_and_down, every_s=0.02, startup_s=0.005, initial=2, memory_size=1)
    cluster = BatchCluster(models(3, 0.06), 4, Delays(1e-4, 5e-5, 2e-3), gpu_memory_bytes=2.0)
    for seed in range(6):
        workload = poisson(seed, 1500, 300, 3)
        episodes = DeferredBatchingEpisodes(scenario_of(cluster), 1, 300, scaler if seed % 2 else None)
        episodes.begin(0, workload)
        total = play(episodes, at_random(seed))
        results = episodes.results(0)
        assert total == -round(results.bad_share * 300)
        in_time = results.end_s[results.outcome == 0]
        assert (in_time > 0).all()
    workload = poisson(0, 5000, 3000, 1)
    plain = BatchCluster(models(1), 8)
    wise, _ = played(plain, workload, frontrun)
    foolish, _ = played(plain, workload, at_random(0))
    assert foolish.bad_share > 0.01 > 3 * wise.bad_share


def test_waiting_is_asked_about_again_when_the_window_opens_and_when_it_closes() -> None:
    """One request with 1 s: a margin and a batch of 2, then of 1, before its deadline; then it is dropped."""
    model = ServedModel("m", (0.25, 0.5), slo_s=1.0)
    episodes = DeferredBatchingEpisodes(scenario_of(BatchCluster((model,), 1)), 1, 1)
    episodes.begin(0, BatchWorkload("one", [0.0], [0]))
    margin_s = 1e-4
    asked_at = []
    while not episodes.finished[0]:
        asked_at.append(float(seen(episodes, "candidate", "oldest_wait_s")))
        assert episodes.masks[0].all()
        episodes.step(np.array([WAIT]))
    np.testing.assert_allclose(asked_at, [0.0, 0.5 - margin_s, 0.75 - margin_s], rtol=1e-6)
    assert episodes.rewards[0] == -1.0  # nobody sent it: dropped once its time was over


def test_the_second_batch_keeps_more() -> None:
    """A batch of the target leaves the oldest behind; the smaller one takes it, and others are late."""
    # 1 GPU, l(b) = 1 + b/8, is busy until 1.125; then the target is 6, and the oldest has 1.525 s left
    model = ServedModel.of_law("m", LinearBatchLatency(0.125, 1.0), 8, slo_s=2.5)
    arrival_s = np.array([0.0, 0.15, *np.linspace(1.0, 1.0625, 8)])
    workload = BatchWorkload("late", arrival_s, np.zeros(10, np.int32))

    def after_first() -> DeferredBatchingEpisodes:
        episodes = DeferredBatchingEpisodes(scenario_of(BatchCluster((model,), 1)), 1, 10)
        episodes.begin(0, workload)
        episodes.step(np.array([1]))  # the first, alone
        return episodes

    def candidate(*columns: str) -> list[float]:
        return [float(seen(target, "candidate", column)) for column in columns]

    target = after_first()
    assert candidate("waiting", "target") == [9, 6]
    assert candidate("size", "end_s", "left_behind") == [8, 2.0, 1]
    assert candidate("smaller_size", "smaller_end_s", "smaller_left_behind") == [4, 1.5, 0]
    target.step(np.array([1]))
    assert target.results(0).outcome.tolist() == [GOOD, DROPPED, *[GOOD] * 8]
    smaller = after_first()
    smaller.step(np.array([2]))
    assert smaller.results(0).outcome.tolist() == [*[GOOD] * 5, *[DROPPED] * 5]


def test_the_return_is_minus_what_the_objective_weighs() -> None:
    """Bad requests, seconds of GPUs and joules, whoever plays."""
    cluster = BatchCluster(models(2), 3)
    workload = poisson(1, 3000, 400, 2)
    for choose in (frontrun, at_random(3)):
        results, total = played(cluster, workload, choose, gpu_weight=0.5, energy_weight=0.125)
        bad = round(results.bad_share * 400)
        cost = bad + 0.5 * results.gpu_used_s.sum() + 0.125 * results.energy_j
        assert results.energy_j > 0
        assert total == pytest.approx(-cost, rel=1e-12)


def test_a_batch_to_a_gpu_without_the_weights_is_late() -> None:
    """It is seen beforehand, and its reward comes with the dispatch."""
    slow = ServedModel("slow", (0.25,), slo_s=0.5, load_s=1.0, memory_bytes=1.0)
    other = ServedModel("other", (0.25,), slo_s=0.5, load_s=1.0, memory_bytes=1.0)
    third = ServedModel("third", (0.25,), slo_s=0.5, load_s=1.0, memory_bytes=1.0)
    cluster = BatchCluster((slow, other, third), 1, gpu_memory_bytes=2.0)
    episodes = DeferredBatchingEpisodes(scenario_of(cluster), 1, 2)
    episodes.begin(0, BatchWorkload("two", [0.0, 0.0], [0, 2]))
    assert episodes.observation["weights"][0].tolist() == [[1.0, 1.0, 0.0]]
    assert seen(episodes, "gpus", "has_weights").tolist() == [1.0]
    assert seen(episodes, "models", "asked").tolist() == [1.0, 0.0, 0.0]
    episodes.step(np.array([1]))
    assert episodes.rewards[0] == 0.0
    assert seen(episodes, "models", "asked").tolist() == [0.0, 0.0, 1.0]
    assert seen(episodes, "gpus", "load_s").tolist() == [1.0]
    episodes.step(np.array([1]))
    assert episodes.rewards[0] == -1.0
    assert episodes.finished[0]


def test_without_an_objective_nobody_waits_for_ever() -> None:
    """The last request may wait only while something is still to happen."""
    model = ServedModel("m", (0.25, 0.5))
    episodes = DeferredBatchingEpisodes(scenario_of(BatchCluster((model,), 2)), 1, 2)
    episodes.begin(0, BatchWorkload("two", [0.0, 0.125], [0, 0]))
    assert episodes.masks[0].all()
    episodes.step(np.array([1]))
    assert episodes.masks[0].tolist() == [True, False, True, False, True]
    episodes.step(np.array([WAIT]))
    assert episodes.masks[0].tolist() == [False, True, True, True, True]
    episodes.step(np.array([2]))
    assert episodes.finished[0]
    assert episodes.results(0).bad_share == 0.0


def test_an_illegal_action_changes_nothing() -> None:
    env = DeferredBatchingEnv(small())
    env.reset(seed=0)
    env.step(1)
    before = env.unwrapped._episodes.observation["gpus"].copy()
    busy = np.flatnonzero(before[0, :, 1] == 0)
    assert len(busy)
    for action in (1 + busy[0], 1 + 3 + busy[0], -1, 7):
        with pytest.raises(
            ValueError, match=f"action {action} in environment 0, decision 1: must be one that"
        ):
            env.step(action)
    np.testing.assert_array_equal(env.unwrapped._episodes.observation["gpus"], before)


@pytest.mark.parametrize("flat", [False, True])
def test_environment_checks(flat: bool) -> None:
    check_environment(ENV_ID, scenario=small(), flat=flat)
    few = ("scenario.episode.requests=100", "scenario.workload.requests=100")
    check_environment(ENV_ID, scenario=load_batch_scenario("loading_2gpu", few), split="test", flat=flat)


def test_passes_the_checker_of_stable_baselines3() -> None:
    """No error, and no advice but that tables need a policy of their own."""
    with warnings.catch_warnings(record=True) as advice:
        warnings.simplefilter("always")
        env = DeferredBatchingEnv(small())
        _sample_legal_actions(env)
        check_env_for_sb3(env)
    assert all("unconventional shape" in str(warning.message) for warning in advice)


def test_flat_is_the_same_numbers() -> None:
    """As Gymnasium's own flattening has them."""
    flat = DeferredBatchingEnv(small(), flat=True)
    nested = FlattenObservation(gym.make(ENV_ID, scenario=small()))
    one, _ = flat.reset(seed=5)
    other, _ = nested.reset(seed=5)
    for _ in range(20):
        assert np.array_equal(np.sort(one), np.sort(other))  # Gymnasium orders the parts by name
        one, *_ = flat.step(WAIT)
        other, *_ = nested.step(WAIT)
