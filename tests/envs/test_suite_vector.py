"""Environments of several scenarios as one are each of them side by side."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import load_scenario
from servegym.envs.suite_vector import SuiteVectorEnv

SCENARIOS = [
    load_scenario(
        "generated_8xh100", (f"scenario.fleet.replicas={replicas}", f"scenario.episode.requests={requests}")
    )
    for replicas, requests in ((2, 5), (3, 8))
]


def test_each_part_is_itself() -> None:
    together = SuiteVectorEnv([RoutingVectorEnv(2, scenario, slots=3) for scenario in SCENARIOS])
    alone = [RoutingVectorEnv(2, scenario, slots=3) for scenario in SCENARIOS]
    assert together.num_envs == 4
    assert together.part_of.tolist() == [0, 0, 1, 1]
    seen, _ = together.reset(seed=7)
    parts = [env.reset(seed=seed)[0] for env, seed in zip(alone, (7, 9), strict=True)]
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(20):
        for name in seen:
            np.testing.assert_array_equal(seen[name], np.concatenate([part[name] for part in parts]))
        actions = rng.integers(2, size=4)
        seen, rewards, over, _, infos = together.step(actions)
        steps = [alone[k].step(actions[2 * k : 2 * k + 2]) for k in range(2)]
        parts = [step[0] for step in steps]
        np.testing.assert_array_equal(rewards, np.concatenate([step[1] for step in steps]))
        np.testing.assert_array_equal(over, np.concatenate([step[2] for step in steps]))
        assert bool(infos) == bool(over.any())
        for k in np.flatnonzero(over):
            ended += 1
            theirs = steps[k // 2][4]["final_info"]
            assert infos["final_info"]["episode_metrics"][k] == theirs["episode_metrics"][k % 2]
            assert infos["final_info"]["workload"][k].num_requests == (5 if k < 2 else 8)
    assert ended == 2 * 4 + 2 * 2
    np.testing.assert_array_equal(
        together.action_masks(), np.concatenate([env.action_masks() for env in alone])
    )


def test_replicas_that_a_scenario_lacks_are_not_legal() -> None:
    env = SuiteVectorEnv([RoutingVectorEnv(1, scenario, slots=3) for scenario in SCENARIOS])
    env.reset(seed=0)
    assert env.action_masks().tolist() == [[True, True, False], [True, True, True]]


def test_parts_of_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="must be equal to be trained on together"):
        SuiteVectorEnv([RoutingVectorEnv(1, scenario) for scenario in SCENARIOS])
