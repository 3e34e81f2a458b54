"""What learns from a replay buffer: Stable-Baselines3's loop, with what holds for all of our algorithms."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.learners.by_scenario import normalised
from servegym.agents.learners.config import ReplayConfig
from servegym.agents.learners.training import log_to
from servegym.agents.networks.off_policy import ReplayPolicy
from servegym.costmodels.errors import InputError

Learner = TypeVar("Learner", bound="ReplayLearner")


class ReplayLearner(OffPolicyAlgorithm):
    """Subclasses write `update`, one step of their optimisers.

    The policy acts from the first decision on (it is near uniform then, and always legal). Learning begins
    with `warm_up` decisions. Rewards are normalised as `build_ppo` says.
    """

    policy: ReplayPolicy

    def __init__(
        self,
        policy: type[ReplayPolicy],
        env: VecEnv,
        config: ReplayConfig | None = None,
        seed: int | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        device: str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        """Without a config only to be filled by `load`."""
        self.config = ReplayConfig() if config is None else config
        super().__init__(
            policy,
            env,
            learning_rate=LinearSchedule(self.config.learning_rate, self.config.final_learning_rate, 1.0),
            buffer_size=self.config.buffer_size,
            learning_starts=0,  # the policy is asked from the first decision on
            batch_size=self.config.batch_size,
            tau=self.config.tau,
            gamma=self.config.gamma,
            gradient_steps=self.config.gradient_steps,
            policy_kwargs=policy_kwargs,
            seed=seed,
            device=device,
            support_multi_env=True,
            sde_support=False,
        )
        if _init_setup_model:
            self._setup_model()

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """`gradient_steps` updates, each from decisions drawn with equal probability."""
        buffer = self.replay_buffer
        assert buffer is not None
        if buffer.size() * buffer.n_envs < self.config.warm_up:
            return
        self.policy.set_training_mode(mode=True)
        self._update_learning_rate(list(self.policy.optimizers().values()))
        for _ in range(gradient_steps):
            for name, value in self.update(buffer.sample(batch_size)).items():
                self.logger.record(f"train/{name}", value)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Remembers rewards as they were normalised when they came, which also several scenarios can be."""
        following = new_obs
        if dones.any():
            following = {key: array.copy() for key, array in new_obs.items()}
            for k in np.flatnonzero(dones):
                for key, array in infos[k].get("terminal_observation", {}).items():
                    following[key][k] = array
        last: Any = self._last_obs
        replay_buffer.add(last, following, buffer_action, reward, dones, infos)
        self._last_obs = new_obs

    def update(self, batch: ReplayBufferSamples) -> dict[str, float]:
        """One step from a batch of decisions, and what to log of it."""
        raise NotImplementedError

    def minimise(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
        """One step of an optimiser, with gradients scaled down to `max_grad_norm`; the loss."""
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], self.config.max_grad_norm)
        optimizer.step()
        return float(loss.detach())

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *(f"policy.{name}" for name in self.policy.optimizers())], []


def build_replay_learner(
    learner: type[Learner],
    policy: type[ReplayPolicy],
    config: ReplayConfig,
    vec_env: VecEnv,
    seed: int,
    tensorboard_dir: Path | None,
) -> Learner:
    """A fresh learner on `vec_env`; every draw of the networks and the learner comes from `seed`.

    InputError where the buffer cannot hold what is waited for.
    """
    if config.buffer_size < max(config.warm_up, vec_env.num_envs):
        raise InputError(
            f"agent.buffer_size = {config.buffer_size}: must hold at least the {config.warm_up} decisions of "
            f"agent.warm_up, and one of each of the {vec_env.num_envs} environments"
        )
    options = {"network": config.network, "hidden": config.hidden, "layers": config.layers}
    model = learner(policy, normalised(vec_env, config.gamma), config, seed, options)
    log_to(model, tensorboard_dir)
    return model
