"""Learners from a replay buffer: a game with a known answer, the same again, and on after a kill."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from servegym.agents.learners.algorithms import algorithm_of
from servegym.agents.learners.checkpoint import checkpoints
from servegym.agents.learners.config import DiscreteSACConfig, DoubleDQNConfig, ReplayConfig
from servegym.agents.learners.discrete_sac import build_discrete_sac
from servegym.agents.learners.double_dqn import build_double_dqn
from servegym.agents.learners.replay import ReplayLearner
from servegym.agents.learners.training import resume, train
from servegym.agents.networks.off_policy import action_values
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm import view
from tests.agents.learners.test_ppo import StopAt, regret, weights
from tests.agents.queue_game import QueueGame, what_is_seen

SMALL: dict[str, Any] = {
    "learning_rate": 3e-3,
    "hidden": 16,
    "warm_up": 256,
    "batch_size": 64,
    "network": "gnn",
}
CONFIGS = (DiscreteSACConfig(**SMALL), DoubleDQNConfig(**SMALL))
each = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.algorithm)


def built(config: ReplayConfig, game: QueueGame, seed: int = 0) -> ReplayLearner:
    model = algorithm_of(config).build(config, game, seed, None)
    assert isinstance(model, ReplayLearner)
    return model


@each
def test_learns_the_shortest_queue_at_any_fleet_size_and_acts_legally(
    tmp_path: Path, config: ReplayConfig
) -> None:
    game = QueueGame()
    model = built(config, game)
    untrained = regret(model)
    train(model, 6000, tmp_path)
    assert untrained > 0.2
    assert regret(model) < 0.05
    assert regret(model, num_replicas=16) < 0.1  # learnt with 4
    assert game.num_illegal == 0


@each
def test_same_seed_same_weights(tmp_path: Path, config: ReplayConfig) -> None:
    runs = []
    for index, seed in enumerate((0, 0, 1)):
        np.random.seed(index)  # noqa: NPY002  # what went on before in the process must not matter
        torch.manual_seed(index)
        runs.append(weights(train(built(config, QueueGame(), seed), 640, tmp_path / str(index))))
    first, again, other = runs
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@each
def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path: Path, config: ReplayConfig) -> None:
    model = built(config, QueueGame())
    with pytest.raises(InterruptedError):
        train(model, 6000, tmp_path, [StopAt(3000)], checkpoint_steps=1000)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000000001008", "step_000000002016"]
    resumed = resume(tmp_path, QueueGame(), algorithm=algorithm_of(config).model(config))
    assert resumed.num_timesteps == 6000
    assert resumed.config == config  # type: ignore[attr-defined]
    assert regret(resumed) < 0.05
    whole = weights(train(built(config, QueueGame()), 6000, tmp_path / "whole"))
    assert all(torch.equal(weights(resumed)[name], tensor) for name, tensor in whole.items())


@each
def test_nothing_is_learnt_before_the_buffer_holds_enough(tmp_path: Path, config: ReplayConfig) -> None:
    waiting = dataclasses.replace(config, warm_up=4096)
    before = built(waiting, QueueGame()).policy.network.state_dict()
    after = train(built(waiting, QueueGame()), 1024, tmp_path).policy.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("sure", "risen"), [(False, False), (True, True)])
def test_the_temperature_rises_where_the_policy_is_surer_than_asked(
    tmp_path: Path, sure: bool, risen: bool
) -> None:
    model = build_discrete_sac(DiscreteSACConfig(**SMALL, entropy_share=0.5), QueueGame(), 0)
    if sure:  # a fresh network is near uniform
        with torch.no_grad():
            model.policy.network.score.weight *= 1e5  # type: ignore[operator, union-attr]
    before = float(model.policy.log_temperature.detach())
    train(model, 320, tmp_path)
    assert (float(model.policy.log_temperature.detach()) > before) == risen


def test_values_are_the_returns(tmp_path: Path) -> None:
    """Every decision is an episode: a value is the normalised reward of its action, whatever follows."""
    model = train(build_double_dqn(DoubleDQNConfig(**SMALL), QueueGame(), 0), 6000, tmp_path)
    observation = what_is_seen(np.random.default_rng(3), 500, 4)
    with torch.no_grad():
        tensors = {key: torch.from_numpy(array) for key, array in observation.items()}
        values = action_values(model.policy.network, tensors).numpy()
    rewards = -1e-4 * observation["replicas"][..., view.QUEUED_PREFILL_TOKENS].astype(np.float64)
    normalised = model.get_vec_normalize_env().normalize_reward(rewards)  # type: ignore[union-attr]
    legal = observation["replicas"][..., view.AVAILABLE] > 0
    assert np.corrcoef(values[legal], normalised[legal])[0, 1] > 0.9


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"agent\.buffer_size = 100: must hold at least the 256 decisions"):
        build_double_dqn(DoubleDQNConfig(**SMALL, buffer_size=100), QueueGame(), 0)
    with pytest.raises(InputError, match=r"network = 'gpu_scorer': must be one of gnn, attention, mlp"):
        DoubleDQNConfig(network="gpu_scorer")
    with pytest.raises(InputError, match=r"agent\.entropy_share = 1.5: must be in \(0, 1\)"):
        DiscreteSACConfig(entropy_share=1.5)
