"""Every family learns by the same code: what a trainer is told of it is what its environment is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO

from servegym.agents.learners.centring import CentredRewards
from servegym.agents.learners.checkpoint import checkpoints
from servegym.agents.learners.config import PPOConfig
from servegym.agents.learners.families import FAMILIES, Family, check_fits, family_of
from servegym.agents.learners.imitation import imitate
from servegym.agents.learners.ppo import build_ppo, ppo_for
from servegym.agents.learners.rollouts import FastPPO
from servegym.agents.learners.training import resume, train
from servegym.agents.learners.vec_env import SB3VecEnv
from servegym.agents.networks.build import NETWORKS
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.costmodels.errors import InputError
from servegym.envs.scenario.compose import compose_scenario_of
from tests.agents.learners.test_ppo import StopAt
from tests.experiments.commands import SMALL_SCENARIO_OF

by_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.environment)
MASKED = [family for family in FAMILIES if family.masked]


def config_of(family: Family) -> Any:
    scenario, *overrides = SMALL_SCENARIO_OF[family.environment]
    return compose_scenario_of(family.schema, scenario.removeprefix("scenario="), tuple(overrides))


def vec_env(family: Family, num_envs: int = 2) -> SB3VecEnv:
    return SB3VecEnv(family.vector(num_envs, family.scenario(config_of(family))))


def small(family: Family, **keys: Any) -> PPOConfig:
    options = {"hidden": 8, "n_steps": 16, "batch_size": 32} | keys
    return PPOConfig(network=family.networks[0], **options)


def test_every_network_is_of_one_family() -> None:
    assert sorted(NETWORKS) == sorted(name for family in FAMILIES for name in family.networks)


@by_family
def test_what_is_said_of_a_family_is_so(family: Family) -> None:
    config = config_of(family)
    env = family.vector(1, family.scenario(config))
    assert env.single_action_space.n == family.num_actions(config)  # type: ignore[attr-defined]
    env.reset(seed=0)
    infos: dict[str, Any] = {}
    random = np.random.default_rng(0)
    while not infos:
        masks = env.action_masks()
        *_, infos = env.step((masks * random.random(masks.shape)).argmax(axis=1))
    metrics = infos["final_info"]["episode_metrics"][0]
    assert {family.shown.metric, *family.metrics} <= metrics.keys()
    assert family.shown.metric in family.metrics


@by_family
def test_a_network_for_another_family_is_refused(family: Family) -> None:
    config = config_of(family)
    fitting = [name for each in FAMILIES if each.schema is family.schema for name in each.networks]
    for other in FAMILIES:
        if other.schema is family.schema:
            check_fits(other.networks[0], config)
        else:
            with pytest.raises(InputError, match=f"must be one of {', '.join(fitting)}$"):
                check_fits(other.networks[0], config)


@pytest.mark.parametrize("family", MASKED, ids=lambda family: family.environment)
def test_masked_learning_acts_legally_and_goes_on_after_a_kill(family: Family, tmp_path: Path) -> None:
    model = build_ppo(small(family), vec_env(family), seed=0)  # an illegal action would raise
    assert isinstance(model, MaskablePPO)
    train(model, 64, tmp_path)
    again = build_ppo(small(family), vec_env(family), seed=0)
    train(again, 64, tmp_path / "again")
    for one, other in zip(model.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    killed = build_ppo(small(family), vec_env(family), seed=0)
    with pytest.raises(InterruptedError):
        train(killed, 64, tmp_path / "killed", [StopAt(50)], checkpoint_steps=32)
    assert len(checkpoints(tmp_path / "killed")) == 2
    resumed = resume(tmp_path / "killed", vec_env(family), algorithm=ppo_for(family.networks[0]))
    assert resumed.num_timesteps == 64
    for one, other in zip(model.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_routing_is_learnt_by_plain_ppo() -> None:
    assert ppo_for("gnn") is ppo_for("mlp") is FastPPO


@pytest.mark.parametrize(
    ("network", "share"),
    [("gpu_scorer", 0.97), ("choice_scorer", 0.9), ("engine_scorer", 0.9)],
)
def test_imitation_does_as_the_rule(network: str, share: float) -> None:
    family = family_of(network)
    assert family.teacher is not None
    env, teacher = vec_env(family, 8), family.teacher()
    model = build_ppo(small(family, n_steps=32, batch_size=64, learning_rate=3e-3), env, seed=0)
    assert isinstance(model, MaskablePPO)

    def agreement() -> float:
        policy = NetworkPolicy(model.policy.network)  # type: ignore[arg-type]
        env.seed(77)
        observation, same, asked = env.reset(), 0, 0
        for _ in range(40):
            due = teacher.act(observation)  # type: ignore[arg-type]
            chosen = policy.act(observation, np.stack(env.env_method("action_masks")))
            alike = due == chosen if family.imitated == "all" else (due == 0) == (chosen == 0)
            same, asked = same + int(alike.sum()), asked + len(due)
            observation, *_ = env.step(due)
        return same / asked

    imitate(model, teacher, 2048, family.imitated)
    assert agreement() > share
    assert model.num_timesteps == 0
    with pytest.raises(InputError, match=r"agent\.imitate_steps = 5: must be 0"):
        PPOConfig(network="gnn", imitate_steps=5)


def test_centring_changes_returns_by_the_work_only() -> None:
    """Serving four one by one or at once: the same work, so the same is added."""
    family = family_of("queue_mlp")
    env = CentredRewards(vec_env(family, 1), lambda observation, actions: actions.astype(float), gamma=1.0)
    env.seed(0)
    env.reset()
    raw, sizes = [], []
    centred = 0.0
    for _ in range(20):
        action = env.env_method("action_masks")[0].nonzero()[0].max()
        env.step(np.array([action]))
        raw.append(float(env.get_original_reward()[0]))
        sizes.append(int(action))
        centred = float(env._centred(env.get_original_reward())[0])
        assert centred == pytest.approx(raw[-1] - env.mean_reward * sizes[-1])
    weights = 0.999 ** np.arange(20)[::-1]
    assert env.mean_reward == pytest.approx(np.dot(weights, raw) / np.dot(weights, sizes))
    assert env.mean_reward < 0
