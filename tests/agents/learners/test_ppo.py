"""PPO learns a game with a known answer, repeats itself, and goes on after a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from servegym.agents.learners.checkpoint import checkpoints
from servegym.agents.learners.config import PPOConfig
from servegym.agents.learners.interrupts import deferred_interrupts, stop_asked
from servegym.agents.learners.ppo import build_ppo
from servegym.agents.learners.training import resume, train
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.agents.networks.policy import RouterPolicy
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm import view
from tests.agents.queue_game import QueueGame, shortest_queue, what_is_seen

UPDATE = 512
"""Decisions per update below: 16 environments times 32 steps."""


def config(network: str = "gnn", **keys: float) -> PPOConfig:
    options = {"learning_rate": 3e-3, "hidden": 32, "n_steps": 32, "batch_size": 256} | keys
    return PPOConfig(network=network, **options)  # type: ignore[arg-type]


def regret(model: PPO, num_replicas: int = 4) -> float:
    """Tokens queued at the replica chosen beyond the shortest queue, as a share of a random choice's."""
    observation = what_is_seen(np.random.default_rng(99), 1000, num_replicas)
    chosen = NetworkPolicy(model.policy.network).act(observation)
    queued = observation["replicas"][..., view.QUEUED_PREFILL_TOKENS]
    legal = observation["replicas"][..., view.AVAILABLE] > 0
    rows = np.arange(len(queued))
    best = queued[rows, shortest_queue(observation)]
    at_random = (queued * legal).sum(axis=1) / legal.sum(axis=1)
    return float((queued[rows, chosen] - best).mean() / (at_random - best).mean())


def weights(model: PPO) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


class StopAt(BaseCallback):
    """Dies in the middle of a rollout, as a killed process does: nothing is saved on the way out."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.step:
            raise InterruptedError
        return True


@pytest.mark.parametrize("unit_s", [1e-6, 1.0], ids=["small rewards", "large rewards"])
def test_gnn_learns_the_shortest_queue_at_any_fleet_size(tmp_path: Path, unit_s: float) -> None:
    game = QueueGame(unit_s=unit_s)
    model = build_ppo(config(), game, seed=0)
    untrained = regret(model)
    train(model, 16 * UPDATE, tmp_path)
    assert untrained > 0.5
    assert regret(model) < 0.03
    assert regret(model, num_replicas=16) < 0.1  # learnt with 4
    assert game.num_illegal == 0


def test_mlp_learns_too(tmp_path: Path) -> None:
    game = QueueGame()
    model = build_ppo(config("mlp"), game, seed=0)
    untrained = regret(model)
    train(model, 24 * UPDATE, tmp_path)
    assert regret(model) < 0.3 * untrained
    assert game.num_illegal == 0


def test_same_seed_same_weights(tmp_path: Path) -> None:
    runs = []
    for index, seed in enumerate((0, 0, 1)):
        np.random.seed(index)  # noqa: NPY002  # what went on before in the process must not matter
        torch.manual_seed(index)
        model = build_ppo(config(), QueueGame(), seed)
        torch.rand(index)
        runs.append(weights(train(model, 2 * UPDATE, tmp_path / str(index))))
    first, again, other = runs
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_resume_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    model = build_ppo(config(), QueueGame(), seed=0)
    with pytest.raises(InterruptedError):
        train(model, 16 * UPDATE, tmp_path, [StopAt(8 * UPDATE + 100)], checkpoint_steps=2 * UPDATE)
    assert [path.name for path in checkpoints(tmp_path)] == [f"step_{n * UPDATE:012d}" for n in (6, 8)]
    at_kill = weights(model)
    optimiser_at_kill = model.policy.optimizer.state_dict()

    seen: dict[str, object] = {}

    class Look(BaseCallback):
        def _on_training_start(self) -> None:
            seen["steps"] = self.model.num_timesteps
            seen["weights"] = weights(self.model)  # type: ignore[arg-type]
            seen["rewards"] = self.model.get_vec_normalize_env().ret_rms.count  # type: ignore[union-attr]
            seen["moments"] = self.model.policy.optimizer.state_dict()["state"][0]["exp_avg"].clone()

        def _on_step(self) -> bool:
            return True

    resumed = resume(tmp_path, QueueGame(), [Look()])
    assert seen["steps"] == 8 * UPDATE
    assert all(torch.equal(at_kill[name], tensor) for name, tensor in seen["weights"].items())  # type: ignore[attr-defined]
    assert torch.equal(seen["moments"], optimiser_at_kill["state"][0]["exp_avg"])  # type: ignore[arg-type]
    assert seen["rewards"] == pytest.approx(8 * UPDATE)
    assert resumed.num_timesteps == 16 * UPDATE
    assert resumed._n_updates == 16 * 4
    # The schedule ends where the whole run's does: the last of 16 updates at progress 16/16.
    assert resumed.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    assert regret(resumed) < 0.03
    assert [path.name for path in checkpoints(tmp_path)] == [f"step_{16 * UPDATE:012d}"]


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    model = train(build_ppo(config(), QueueGame(), seed=0), UPDATE, tmp_path)
    again = resume(tmp_path, QueueGame())
    assert again.num_timesteps == UPDATE
    assert all(torch.equal(weights(again)[name], tensor) for name, tensor in weights(model).items())


def test_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    whole = train(build_ppo(config(), QueueGame(), seed=0), 2 * UPDATE, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(build_ppo(config(), QueueGame(), seed=0), 2 * UPDATE, tmp_path / "killed", [StopAt(100)])
    resumed = resume(tmp_path / "killed", QueueGame())
    assert resumed.num_timesteps == 2 * UPDATE
    assert all(torch.equal(weights(resumed)[name], tensor) for name, tensor in weights(whole).items())


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from servegym.agents.learners import checkpoint
from tests.agents.learners.test_ppo import QueueGame, UPDATE, build_ppo, config, train
replace = os.replace
def die_half_way(source, target):
    if target.name.endswith(f"{3 * UPDATE:012d}"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = die_half_way
train(build_ppo(config(), QueueGame(), seed=0), 4 * UPDATE, Path(sys.argv[1]), checkpoint_steps=UPDATE)
"""


def test_sigkill_while_saving_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, str(tmp_path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoints(tmp_path)[-1].name == f"step_{2 * UPDATE:012d}"
    assert resume(tmp_path, QueueGame()).num_timesteps == 4 * UPDATE
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step_{4 * UPDATE:012d}"]


@pytest.mark.parametrize("killed_at", [100, 3 * UPDATE + 17, 6 * UPDATE - 1])
def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path: Path, killed_at: int) -> None:
    whole = train(build_ppo(config(), QueueGame(), seed=0), 6 * UPDATE, tmp_path / "whole")
    stop = [StopAt(killed_at)]
    model = build_ppo(config(), QueueGame(), seed=0)
    with pytest.raises(InterruptedError):
        train(model, 6 * UPDATE, tmp_path / "run", stop, checkpoint_steps=2 * UPDATE)
    np.random.seed(5)  # noqa: NPY002  # what goes on in the process must not matter
    resumed = resume(tmp_path / "run", QueueGame())
    assert all(torch.equal(weights(resumed)[name], tensor) for name, tensor in weights(whole).items())


def test_who_is_asked_to_stop_saves_first(tmp_path: Path) -> None:
    class Ask(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 2 * UPDATE + 64:
                signal.raise_signal(signal.SIGINT)
            return True

    with pytest.raises(KeyboardInterrupt), deferred_interrupts("this update"):
        train(build_ppo(config(), QueueGame(), seed=0), 5 * UPDATE, tmp_path / "run", [Ask()])
    assert checkpoints(tmp_path / "run")[-1].name == f"step_{3 * UPDATE:012d}"
    resumed = resume(tmp_path / "run", QueueGame())
    whole = train(build_ppo(config(), QueueGame(), seed=0), 5 * UPDATE, tmp_path / "whole")
    assert all(torch.equal(weights(resumed)[name], tensor) for name, tensor in weights(whole).items())


def test_who_is_asked_twice_stops_at_once() -> None:
    def ask_twice() -> None:
        with deferred_interrupts("this update"):
            signal.raise_signal(signal.SIGINT)
            assert stop_asked()
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        ask_twice()
    assert not stop_asked()


def test_environments_that_play_otherwise_now_are_refused(tmp_path: Path) -> None:
    class Changed(QueueGame):
        def step_wait(self) -> VecEnvStepReturn:
            self.rng.random()
            return super().step_wait()

    with pytest.raises(InterruptedError):
        train(build_ppo(config(), QueueGame(), seed=0), 2 * UPDATE, tmp_path, [StopAt(700)], UPDATE)
    with pytest.raises(InputError, match="take another course now"):
        resume(tmp_path, Changed())


def test_policy_loads_without_the_environment(tmp_path: Path) -> None:
    model = build_ppo(config(), QueueGame(), seed=0)
    model.save(tmp_path / "model.zip")
    model.policy.save(str(tmp_path / "policy.pt"))
    observation = what_is_seen(np.random.default_rng(0), 50, 4)
    due, _ = model.predict(observation, deterministic=True)
    loaded = PPO.load(tmp_path / "model.zip", device="cpu")
    assert np.array_equal(loaded.predict(observation, deterministic=True)[0], due)
    policy = RouterPolicy.load(str(tmp_path / "policy.pt"), device="cpu")
    assert np.array_equal(policy.predict(observation, deterministic=True)[0], due)


def test_tensorboard_and_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(build_ppo(config(), QueueGame(), seed=0, tensorboard_dir=tmp_path / "tb"), UPDATE, tmp_path / "run")
    assert list((tmp_path / "tb").glob("events*"))
    assert capfd.readouterr() == ("", "")


def test_batch_size_must_divide_an_update() -> None:
    with pytest.raises(InputError, match=r"agent\.batch_size = 300: must divide .* 32 x 16 = 512"):
        build_ppo(config(batch_size=300), QueueGame(), seed=0)


def test_directories_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint to go on from"):
        resume(tmp_path, QueueGame())
    train(build_ppo(config(), QueueGame(), seed=0), UPDATE, tmp_path)
    with pytest.raises(InputError, match="has checkpoints of an earlier run"):
        train(build_ppo(config(), QueueGame(), seed=0), UPDATE, tmp_path)
    with pytest.raises(InputError, match="does not fit this environment"):
        resume(tmp_path, QueueGame(num_replicas=5))
    newest = checkpoints(tmp_path)[-1]
    assert json.loads((newest / "training.json").read_text())["total_steps"] == UPDATE
