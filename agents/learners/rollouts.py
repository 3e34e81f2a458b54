"""How decisions of an update are collected: as tensors, with nothing done environment by environment.

It makes the same draws and learns the same weights as Stable-Baselines3's own loop and buffer, in which a
step takes longer than a native environment and a small network together. What a network computes from an
observation without weights (`ActionNetwork.prepare`) is computed once, not again in every pass of an update.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from servegym.agents.networks.action_network import Inputs


class Minibatch(NamedTuple):
    """Decisions as an update reads them, each with a leading axis B; the names are SB3's."""

    observations: Any
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    action_masks: Tensor | None


class Rollouts(RolloutBuffer):
    """The decisions of an update, (steps, K, ...): SB3's buffer, for observations of any form.

    An observation is a tensor, a dict of tensors, or `Inputs`.
    """

    def reset(self) -> None:
        """Forgets all decisions."""
        shape = (self.buffer_size, self.n_envs)
        self.actions = np.zeros(shape, np.int64)
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            setattr(self, name, np.zeros(shape, np.float32))
        self._seen: Any = None
        self._masks: Tensor | None = None
        self.pos, self.full = 0, False

    def add(
        self,
        obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor,
        log_prob: Tensor,
        action_masks: np.ndarray | None = None,
    ) -> None:
        """One step: a decision of each of K environments."""
        if self._seen is None:
            self._seen = _each(obs, lambda part: _like(part, self.buffer_size))
        for whole, part in zip(_parts(self._seen), _parts(obs), strict=True):
            whole[self.pos] = torch.as_tensor(part)
        if action_masks is not None:
            masks = torch.as_tensor(action_masks)
            if self._masks is None:
                self._masks = _like(masks, self.buffer_size)
            self._masks[self.pos] = masks
        self.actions[self.pos] = action.reshape(-1)
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.numpy().reshape(-1)
        self.log_probs[self.pos] = log_prob.numpy()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def get(self, batch_size: int | None = None) -> Iterator[Minibatch]:  # type: ignore[override]
        """All decisions once, in an order that NumPy's generator draws, `batch_size` at a time."""
        count = self.buffer_size * self.n_envs
        # Numbered environment by environment, as SB3 does, so the same draw means the same decisions.
        environment, step = np.divmod(np.random.permutation(count), self.buffer_size)  # noqa: NPY002
        order = torch.from_numpy(step * self.n_envs + environment)
        numbers = (self.actions, self.values, self.log_probs, self.advantages, self.returns)
        actions, values, log_probs, advantages, returns = map(torch.from_numpy, numbers)
        for rows in torch.split(order, batch_size or count):

            def take(whole: Tensor, rows: Tensor = rows) -> Tensor:
                return whole.flatten(0, 1).index_select(0, rows)

            yield Minibatch(
                _each(self._seen, take),
                take(actions),
                take(values),
                take(log_probs),
                take(advantages),
                take(returns),
                None if self._masks is None else take(self._masks),
            )


def _like(part: Any, steps: int) -> Tensor:
    part = torch.as_tensor(part)
    return torch.empty((steps, *part.shape), dtype=part.dtype)


def _each(observation: Any, do: Callable[[Any], Tensor]) -> Any:
    """An observation of the same form, of what `do` makes of each part."""
    if isinstance(observation, Inputs):
        return Inputs(do(part) for part in observation)
    if isinstance(observation, dict):
        return {key: do(part) for key, part in observation.items()}
    return do(observation)


def _parts(observation: Any) -> tuple[Any, ...]:
    if isinstance(observation, Inputs):
        return observation
    return tuple(observation.values()) if isinstance(observation, dict) else (observation,)


class _Collecting(OnPolicyAlgorithm):
    """With `Rollouts` and this loop in place of SB3's; for environments whose episodes are never cut off.

    Callbacks are told `dones` and `infos` of every step, as there.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **({"rollout_buffer_class": Rollouts} | options))

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
        use_masking: bool = False,
    ) -> bool:
        """Fills the buffer with `n_rollout_steps` decisions of every environment; False if told to stop."""
        policy: Any = self.policy
        policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        observation: Any = self._last_obs
        starts: Any = self._last_episode_starts
        masks: dict[str, np.ndarray] = {}
        for _ in range(n_rollout_steps):
            if use_masking:
                masks["action_masks"] = np.stack(env.env_method("action_masks"))
            with torch.no_grad():
                inputs = policy.network.prepare(obs_as_tensor(observation, self.device))
                drawn, values, log_probs = policy(inputs, **masks)
            actions = drawn.numpy()
            following, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            callback.update_locals({"dones": dones, "infos": infos})
            if not callback.on_step():
                return False
            if dones.any():
                self._update_info_buffer(infos, dones)
            rollout_buffer.add(inputs, actions, rewards, starts, values, log_probs, **masks)
            observation, starts = following, dones
            self._last_obs, self._last_episode_starts = observation, starts
        with torch.no_grad():
            last_values = policy.predict_values(obs_as_tensor(observation, self.device))
        rollout_buffer.compute_returns_and_advantage(last_values, dones)
        callback.on_rollout_end()
        return True


class FastPPO(_Collecting, PPO):
    """PPO of networks that see what is legal."""


class FastMaskablePPO(_Collecting, MaskablePPO):
    """PPO with masked actions."""


class FastA2C(_Collecting, A2C):
    """Actor-critic: one step along the gradient of the policy for each rollout."""
