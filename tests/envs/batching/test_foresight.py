"""Latency charged beforehand: a potential that leaves returns alone, and tells good decisions from bad."""

import numpy as np
import pytest

from servegym.envs.batching.foresight import OCTAVES, places, waits_for_places
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS
from servegym.envs.two_level.episodes import TwoLevelEpisodes
from servegym.envs.two_level.observation import ROUTING
from servegym.envs.workloads import Workload


def scenario(charged: bool) -> Scenario:
    return load_scenario(
        "generated_8xh100",
        (
            "scenario.fleet.replicas=2",
            "scenario.engine.max_num_seqs=4",
            "scenario.workload.rate_rps=30",
            "scenario.episode.requests=24",
            "scenario.objective.ttft_weight=0",
            "scenario.objective.latency_weight=1",
            f"scenario.objective.charge_expected_wait={charged}",
        ),
    )


def begun(workload: Workload, charged: bool = True) -> TwoLevelEpisodes:
    episodes = TwoLevelEpisodes(scenario(charged), 1, workload.num_requests)
    episodes.begin(0, workload)
    return episodes


def by_octave(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    octaves = np.log2(outputs).astype(np.int64)
    return np.bincount(octaves, minlength=OCTAVES), np.bincount(octaves, outputs, OCTAVES).astype(np.int64)


def at_once(outputs: list[int]) -> Workload:
    """Requests of 64 prompt tokens that come at 0."""
    count = len(outputs)
    return Workload("at_once", np.zeros(count), np.full(count, 64, np.int32), np.array(outputs, np.int32))


@pytest.mark.parametrize("free", [0, 1, 3, 20])
def test_waits_are_those_of_shortest_first(free: int) -> None:
    """Exactly, where those of an octave are alike."""
    random = np.random.default_rng(free)
    for _ in range(50):
        outputs = np.sort(2 ** random.integers(0, 10, size=random.integers(1, 12)))
        running = float(random.integers(0, 100))
        before = running + np.cumsum(outputs) - outputs
        assert waits_for_places(*by_octave(outputs), free, running) == pytest.approx(before[free:].sum())


def test_places_are_what_is_least() -> None:
    assert places(3, 8, 1000, 10.0) == 3
    assert places(30, 8, 1000, 10.0) == 8
    assert places(30, 80, 1000, 100.0) == 10
    assert places(30, 80, 1000, 5000.0) == 1


def test_returns_stay_the_same() -> None:
    workload = scenario(True).traffic.train_workload(np.random.SeedSequence(3))
    returns = []
    for charged in (False, True):
        episodes, random = begun(workload, charged), np.random.default_rng(0)
        rewards = []
        while not episodes.finished[0]:
            chances = random.random(episodes.masks.shape) * episodes.masks
            chances[:, 2 + NUM_ROWS // 2 : 2 + NUM_ROWS] *= 0.5  # not preempting all the time
            episodes.step(chances.argmax(axis=1))
            rewards.append(float(episodes.rewards[0]))
        returns.append(rewards)
    assert sum(returns[0]) == pytest.approx(sum(returns[1]))
    assert max(np.abs(np.subtract(*returns))) > 0.1


def reward_of(workload: Workload, actions: list[int], last: int) -> float:
    episodes = begun(workload)
    for action in [*actions, last]:
        episodes.step(np.array([action]))
    return float(episodes.rewards[0])


def test_an_idle_replica_costs_less_than_a_busy_one() -> None:
    workload = at_once([200, 200, 200, 200])
    assert reward_of(workload, [0, 0], 1) > reward_of(workload, [0, 0], 0)


def test_admitting_the_longer_first_costs_what_the_shorter_one_waits() -> None:
    workload = at_once([400, 100, 100, 100, 100])
    routed = [0] * 5
    episodes = begun(workload)
    for action in routed:
        episodes.step(np.array([action]))
    assert episodes.observation["level"][0] != ROUTING
    assert reward_of(workload, routed, 2 + 1) > reward_of(workload, routed, 2 + 0)
    assert reward_of(workload, routed, 2 + 1) == pytest.approx(reward_of(workload, routed, 2 + 2))
    assert NUM_CHOICES == NUM_ROWS + 4
