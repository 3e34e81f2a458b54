"""Rules over the observations of `servegym/ElasticSequenceParallel-v0`, each where it decides."""

import numpy as np
import pytest

from servegym.agents.elastic_sequence_parallel import FirstComeFirstServed, GainAndLoss, ShortestFirst
from servegym.agents.policy import Policy
from servegym.envs.elastic_scenario import load_elastic_scenario
from servegym.envs.elastic_sequence_parallel.episodes import ElasticSequenceParallelEpisodes
from servegym.envs.workloads.workload import Workload
from tests.envs.sim.elastic.fleets import fleet, workload

INSTANCES = 3


def asked(requests: Workload) -> ElasticSequenceParallelEpisodes:
    """Three instances of 1,000 slots, asked about the first requests."""
    scenario = load_elastic_scenario("mixed_8a800")
    scenario.fleet = fleet(INSTANCES, 1000)
    episodes = ElasticSequenceParallelEpisodes(scenario, 1, requests.num_requests)
    episodes.begin(0, requests)
    return episodes


def chosen(policy: Policy, episodes: ElasticSequenceParallelEpisodes) -> int:
    policy.reset(1, 0)
    action = policy.act(episodes.observation)
    assert action.shape == (1,)
    assert episodes.masks[0, action[0]]
    return int(action[0])


def test_first_come_first_served_takes_all_instances() -> None:
    assert chosen(FirstComeFirstServed(), asked(workload((0.0, 50, 5)))) == INSTANCES


@pytest.mark.parametrize("degree", [1, 2])
def test_shortest_first_takes_its_degree_or_as_many_as_it_needs(degree: int) -> None:
    assert chosen(ShortestFirst(degree), asked(workload((0.0, 50, 5)))) == INSTANCES + degree
    assert chosen(ShortestFirst(degree), asked(workload((0.0, 2500, 5)))) == INSTANCES + 3


def test_a_prefill_interrupts_decodes_only_where_it_gains_more_than_they_lose() -> None:
    """All instances decode; a short prompt is worth stopping one for, a long one is not."""
    for prompt, prefills in ((20, True), (600, False)):
        decoding = [(number / 1000, 300, 80) for number in range(INSTANCES)]
        episodes = asked(workload(*decoding, (0.4, prompt, 5), (9.0, 5, 2)))
        for _ in range(INSTANCES):
            episodes.step(np.array([1]))
        while episodes.observation["globals"][0, 0] == 0 or episodes.observation["globals"][0, 1] == 0:
            episodes.step(np.array([0]))
        assert (episodes.observation["instances"][0, :, 5] == 0).all()  # nothing is idle
        assert (chosen(GainAndLoss(decoding_s=0.001), episodes) > 0) == prefills


def test_gains_and_losses_serve_long_and_short_requests_better_than_either_fixed_rule() -> None:
    """On a mix at moderate load, by what the objective weighs."""
    scenario = load_elastic_scenario("mixed_8a800", ("scenario.workload.requests=150",))
    workloads = [scenario.traffic.test_workload(seed) for seed in range(2)]
    costs = {}
    for policy in (FirstComeFirstServed(), ShortestFirst(1), ShortestFirst(4), GainAndLoss()):
        episodes = ElasticSequenceParallelEpisodes(scenario, 2, 150)
        for number, requests in enumerate(workloads):
            episodes.begin(number, requests)
        policy.reset(2, 0)
        while not episodes.finished.all():
            episodes.step(policy.act(episodes.observation))
        costs[type(policy), getattr(policy, "degree", 0)] = sum(
            episodes.summary(number)["cost"] for number in range(2)
        )
    assert min(costs, key=costs.__getitem__) == (GainAndLoss, 0)
