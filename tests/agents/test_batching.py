"""Rules of scheduling: who goes first, and that whole workloads are scheduled as in the environment."""

import numpy as np
import pytest

from servegym.agents.batching import ENGINE, BoundedShortestFirst, FirstComeFirstServed
from servegym.agents.evaluation import schedule
from servegym.agents.policy import Policy
from servegym.envs.batching.env import BatchingEnv
from servegym.envs.batching.observation import Observation
from servegym.envs.metrics import summarise
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.decision_view import (
    ENGINE_FEATURES,
    IS_WAITING,
    LEGAL,
    ROW_FEATURES,
    SINCE_ARRIVAL_S,
)
from servegym.envs.sim.llm.decisions import NUM_ROWS

SCENARIO = load_scenario(
    "generated_1xh100",
    (
        "scenario.engine.max_num_seqs=8",
        "scenario.workload.rate_rps=12",
        "scenario.workload.prediction_error=0.2",
        "scenario.workload.test_s=20",
        "scenario.episode.requests=60",
    ),
)
WORKLOADS = [SCENARIO.traffic.test_workload(seed) for seed in range(2)]


def waiting(*rows: tuple[float, float, float, bool]) -> Observation:
    """Nobody runs; who waits: prompt, predicted output, seconds since arrival, and whether they fit."""
    requests = np.zeros((1, NUM_ROWS, ROW_FEATURES), np.float32)
    for row, (prompt, output, since_s, fits) in enumerate(rows):
        requests[0, row] = [1, 0, 0, prompt, prompt, 0, output, 0, since_s, 0, 1, fits]
    assert IS_WAITING == 0 and SINCE_ARRIVAL_S == 8 and LEGAL == 11
    return {"engine": np.zeros((1, ENGINE_FEATURES), np.float32), "requests": requests}


@pytest.mark.parametrize(
    "rows, choice",
    [
        (((100, 200, 3.0, True), (100, 100, 3.0, True)), 1),  # the shorter
        (((100, 100, 3.0, True), (50, 110, 3.0, True)), 1),  # by the prompt as well
        (((100, 200, 3.0, True), (100, 100, 2.4, True)), 1),  # it came 0.6 s later, and is due 0.6 s earlier
        (((100, 220, 3.0, True), (100, 100, 2.2, True)), 0),
        (((100, 900, 9.0, True), (10, 10, 0.5, True)), 1),  # the oldest is put off by all of its age
        (((100, 900, 9.0, True), (10, 50, 0.5, True)), 0),
        (((100, 900, 3.0, True), (100, 800, 3.1, True)), 1),  # both are as long as can be: by arrival
        (((100, 200, 3.0, True), (100, 100, 3.0, False)), NUM_ROWS + 3),  # it does not fit: all run
        (((100, 200, 3.0, False), (100, 100, 3.0, True)), 1),
    ],
)
def test_the_shortest_goes_first_unless_put_off_for_long(
    rows: tuple[tuple[float, float, float, bool], ...], choice: int
) -> None:
    rule = BoundedShortestFirst(prompt_weight=0.3, largest_job=500.0, patience=1.0)
    assert rule.act(waiting(*rows)) == [choice]


@pytest.mark.parametrize(
    "decoding, number_waiting, seats_left, used_blocks, oldest_s, share",
    [
        (0, 0, 100, 0, 0.5, 3),  # nobody is slowed down
        (5, 0, 100, 0, 0.5, 1),
        (5, 8, 100, 0, 0.5, 2),  # a long queue, and room for more
        (5, 8, 20, 0, 0.5, 1),  # no seats
        (5, 8, 100, 90, 0.5, 1),  # no memory
        (5, 7, 100, 0, 0.5, 1),
        (5, 7, 100, 0, 0.9, 3),  # somebody waits for long
        (5, 8, 20, 0, 0.9, 1),  # for a seat, where longer prefills are no help
    ],
)
def test_prefills_are_as_long_as_the_engine_can_use(
    decoding: int, number_waiting: int, seats_left: int, used_blocks: int, oldest_s: float, share: int
) -> None:
    observation = waiting((100, 100, oldest_s, False))
    seen = {
        "running": 100,
        "waiting": number_waiting,
        "decoding": decoding,
        "kv_used_blocks": used_blocks,
        "kv_total_blocks": 100,
        "seats_left": seats_left,
    }
    for name, value in seen.items():
        observation["engine"][0, ENGINE[name]] = value
    assert BoundedShortestFirst().act(observation) == [NUM_ROWS + share]


@pytest.mark.parametrize("policy", [FirstComeFirstServed(), BoundedShortestFirst()])
def test_workloads_are_scheduled_as_in_the_environment(policy: Policy) -> None:
    env = BatchingEnv(SCENARIO, split="test")
    for seed, results in enumerate(schedule(policy, SCENARIO, WORKLOADS)):
        observation, info = env.reset(seed=seed)
        while "episode_metrics" not in info:
            together = {name: array[None] for name, array in observation.items()}
            observation, *_, info = env.step(int(policy.act(together)[0]))
        assert info["episode_metrics"] == summarise(results, SCENARIO.slo_limits(WORKLOADS[seed]))


@pytest.mark.compiled
def test_the_bounded_rule_is_faster_than_first_come_first_served_and_nobody_starves() -> None:
    by_arrival, by_rule = (
        schedule(policy, SCENARIO, WORKLOADS) for policy in (FirstComeFirstServed(), BoundedShortestFirst())
    )
    for first, second in zip(by_arrival, by_rule, strict=True):
        assert np.mean(second.finish_s - second.arrival_s) < 0.9 * np.mean(first.finish_s - first.arrival_s)
        assert np.max(second.scheduled_s - second.arrival_s) < 25.0 + np.max(
            first.scheduled_s - first.arrival_s
        )
