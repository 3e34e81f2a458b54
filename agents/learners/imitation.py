"""A warm start: the network first learns from a rule when to wait, or all that it does; or from a log."""

from typing import Any, Literal

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.utils import obs_as_tensor

from servegym.agents.learners.process import set_up_learning
from servegym.agents.policy import Policy
from servegym.costmodels.progress import tracked

Imitated = Literal["waits", "all"]
"""What is learnt of a rule."""


def imitate(model: MaskablePPO, teacher: Policy, num_decisions: int, imitated: Imitated) -> None:
    """Trains `model` on what `teacher` does in its environments in `num_decisions`, in whole rollouts.

    The teacher acts. After each rollout the network passes over its decisions as in an update of PPO, with
    PPO's optimiser: values by the returns, scores by the cross entropy of the action ("all") or of whether to
    wait, which is action 0 ("waits"). In the latter case what else to do is left open: a network that has
    learnt that as well tries little that is new. These decisions do not count as the model's own.
    """
    env, buffer = model.get_env(), model.rollout_buffer
    policy: Any = model.policy  # typed for flat observations only
    assert env is not None
    model.set_random_seed(model.seed)
    set_up_learning()
    observation: Any = env.reset()
    teacher.reset(env.num_envs, model.seed or 0)
    starts = np.ones(env.num_envs, np.bool_)
    rollouts = -(-num_decisions // (buffer.buffer_size * env.num_envs))
    for _ in tracked(range(rollouts), "Imitating", "rollouts"):
        buffer.reset()
        policy.set_training_mode(False)
        while not buffer.full:
            actions = torch.from_numpy(teacher.act(observation))
            masks = np.stack(env.env_method("action_masks"))
            with torch.no_grad():
                seen = obs_as_tensor(observation, model.device)
                values, log_probs, _ = policy.evaluate_actions(seen, actions, masks)
            following, rewards, dones, _ = env.step(actions.numpy())
            column = actions.numpy().reshape(-1, 1)
            buffer.add(observation, column, rewards, starts, values, log_probs, action_masks=masks)
            observation, starts = following, dones
        with torch.no_grad():
            values = policy.predict_values(obs_as_tensor(observation, model.device))
        buffer.compute_returns_and_advantage(last_values=values, dones=starts)
        _learn_from(model, imitated)


def imitate_decisions(
    model: PPO, observations: dict[str, np.ndarray], actions: np.ndarray, num_decisions: int
) -> None:
    """Trains the scores of `model` on N decisions that somebody made, in whole minibatches.

    observations: with N first; actions (N,). `num_decisions` are learned from in all, in passes over the N in
    random order, by the cross entropy of the action and with PPO's optimiser. Values are left as they are:
    nobody has said what the rewards were. These decisions do not count as the model's own.
    """
    policy: Any = model.policy
    set_up_learning()
    policy.set_training_mode(True)
    rng = np.random.default_rng(model.seed)
    size = min(model.batch_size, len(actions))
    order = np.zeros(0, np.int64)
    for _ in tracked(range(-(-num_decisions // size)), "Imitating", "minibatches"):
        if len(order) < size:
            order = rng.permutation(len(actions))
        batch, order = order[:size], order[size:]
        seen = obs_as_tensor({name: values[batch] for name, values in observations.items()}, model.device)
        done = torch.as_tensor(actions[batch], device=model.device)
        _, log_probs, _ = policy.evaluate_actions(seen, done)
        policy.optimizer.zero_grad()
        loss: torch.Tensor = -log_probs.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.parameters(), model.max_grad_norm)
        policy.optimizer.step()


def _learn_from(model: MaskablePPO, imitated: Imitated) -> None:
    """The passes of one update over the decisions in the model's buffer."""
    policy: Any = model.policy
    policy.set_training_mode(True)
    for _ in range(model.n_epochs):
        for batch in model.rollout_buffer.get(model.batch_size):
            actions = batch.actions.flatten()
            learnt = torch.zeros_like(actions) if imitated == "waits" else actions
            values, log_probs, _ = policy.evaluate_actions(batch.observations, learnt, batch.action_masks)
            if imitated == "waits":
                acting = torch.log1p(-log_probs.exp().clamp(max=1 - 1e-6))
                log_probs = torch.where(actions == 0, log_probs, acting)
            of_values = torch.nn.functional.mse_loss(values.flatten(), batch.returns)
            policy.optimizer.zero_grad()
            loss: torch.Tensor = model.vf_coef * of_values - log_probs.mean()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(policy.parameters(), model.max_grad_norm)
            policy.optimizer.step()
