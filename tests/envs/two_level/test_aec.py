"""`servegym/TwoLevel-v0` in PettingZoo's form."""

import numpy as np
import pytest

from tests.envs.two_level.test_env import SMALL

pettingzoo_test = pytest.importorskip("pettingzoo.test", reason="needs pettingzoo")

from servegym.envs.two_level.aec import TwoLevelAECEnv  # noqa: E402
from servegym.envs.two_level.env import TwoLevelEnv  # noqa: E402


def test_passes_pettingzoos_checks() -> None:
    pettingzoo_test.api_test(TwoLevelAECEnv(SMALL), num_cycles=300)


@pytest.mark.compiled
def test_same_decisions_same_outcome_as_one_agent() -> None:
    """Played as one agent and as several: the same observations and rewards, of which everybody gets all."""
    single, several = TwoLevelEnv(SMALL), TwoLevelAECEnv(SMALL)
    observation, _ = single.reset(seed=2)
    several.reset(seed=2)
    rng, total, terminated = np.random.default_rng(0), 0.0, False
    earned = dict.fromkeys(several.agents, 0.0)
    while not terminated:
        agent = several.agent_selection
        assert agent == ("router" if observation["level"] == 0 else f"scheduler_{observation['replica']}")
        seen = several.observe(agent)
        for key, value in seen["observation"].items():
            np.testing.assert_array_equal(value, observation[key])
        assert several.observation_space(agent).contains(seen)
        choice = int(rng.choice(np.flatnonzero(seen["action_mask"])))
        several.step(choice)
        offset = 0 if agent == "router" else SMALL.num_replicas
        observation, reward, terminated, _, info = single.step(np.int64(choice + offset))
        total += reward
        for name, share in several.rewards.items():
            earned[name] += share
    assert set(earned.values()) == {total}
    assert all(several.terminations.values())
    assert several.infos["router"] == info


def test_an_agent_that_is_not_due_may_do_nothing() -> None:
    env = TwoLevelAECEnv(SMALL)
    env.reset(seed=0)
    assert env.agent_selection == "router"
    assert not env.observe("scheduler_0")["action_mask"].any()
    with pytest.raises(ValueError, match="action 2 of router: must be from 0 to 1"):
        env.step(2)
    env.step(1)
    assert env.agent_selection == "scheduler_1"
    assert not env.observe("router")["action_mask"].any()
    assert env.observe("scheduler_1")["action_mask"].any()
