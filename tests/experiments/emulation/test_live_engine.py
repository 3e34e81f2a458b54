"""Emulated replicas do what simulated ones do, at the same times."""

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.prefix_state import shared_block_keys
from servegym.envs.sim.llm.setup import ReplicaSpec
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload
from servegym.experiments.emulation.fleet import Arrival, EmulatedFleet
from servegym.experiments.emulation.live_engine import LiveEngine
from tests.experiments.emulation.fake_clock import FakeClock


class Heard:
    """Notes when tokens came."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def token(self, number: int, time_s: float) -> None:
        assert number == len(self.times_s) + 1
        self.times_s.append(time_s)


def emulate(scenario: Scenario, workload: Workload, replicas: np.ndarray, **options: int) -> list[Heard]:
    """Serves the workload, each request on the replica given, with a few slots that are used again."""
    clock = FakeClock()
    fleet = EmulatedFleet(
        [ReplicaSpec(scenario.engine, scenario.cost)] * scenario.num_replicas,
        prediction_refinement=workload.prediction_refinement,
        **options,
    )
    engines = [LiveEngine(fleet, i, clock) for i in range(scenario.num_replicas)]
    keys, offsets = shared_block_keys(workload, scenario.engine.block_size)
    heard = []
    for i in range(workload.num_requests):
        clock.run_until(workload.arrival_s[i])
        heard.append(Heard())
        request = Arrival(
            int(workload.prompt_tokens[i]),
            int(workload.output_tokens[i]),
            block_keys=keys[offsets[i] : offsets[i + 1]],
        )
        engines[replicas[i]].submit(request, heard[-1])
    clock.run_out()
    assert fleet.num_in_flight == 0
    return heard


def assert_same(heard: list[Heard], results: Results) -> None:
    """Equal to the bit."""
    assert [len(each.times_s) for each in heard] == results.output_tokens.tolist()
    assert [each.times_s[0] for each in heard] == results.first_token_s.tolist()
    assert [each.times_s[-1] for each in heard] == results.finish_s.tolist()


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("scenario.engine.num_kv_blocks=400",),
        ("scenario.engine.scheduler=sarathi", "scenario.engine.max_num_batched_tokens=512"),
        ("scenario.engine.order=priority",),
    ],
    ids=["plain", "preemptions", "sarathi", "priority"],
)
def test_times_are_those_of_the_simulator(overrides: tuple[str, ...]) -> None:
    scenario = load_scenario(
        "generated_8xh100",
        (
            "scenario.fleet.replicas=2",
            "scenario.workload.rate_rps=60",
            "scenario.workload.test_s=40",
            *overrides,
        ),
    )
    workload = scenario.traffic.test_workload(0)
    results = scenario.simulate(workload, make_router("jsq"), log=True)
    assert_same(emulate(scenario, workload, results.replica, max_requests=workload.num_requests), results)
