"""Learning from what each choice would have cost: the policy plays, the simulator answers "what if".

After an episode some of its requests are asked about (envs/routing/counterfactual.py): what would the fleet
have paid at each replica? The policy then lowers what it expects to pay, the sum over replicas of probability
times cost, which is the policy gradient over all actions with difference rewards in place of sampled returns
(the counterfactual advantage of COMA, Foerster et al., AAAI 2018, measured and not learnt). The costs know
the true output lengths and all that came later, the policy does not: it learns the mean over what it cannot
see.
"""

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import LinearSchedule, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.learners.config import CounterfactualConfig
from servegym.agents.learners.line_search import search_departure
from servegym.agents.learners.normalised_rewards import NormalisedRewards
from servegym.agents.learners.training import log_to
from servegym.agents.networks.policy import RouterPolicy
from servegym.agents.networks.router_network import RouterNetwork
from servegym.costmodels.errors import InputError
from servegym.envs.routing.counterfactual import marginal_costs
from servegym.envs.scenario import Scenario

LARGEST_ADVANTAGE = 20.0
"""Beyond so many spreads of its scenario a cost counts no more: one unlucky burst is not to decide."""


class Counterfactual(BaseAlgorithm):
    """Plays in all environments, asks about finished episodes, and learns from the answers it remembers.

    Most decisions are the best by the policy, a share is drawn from it. Episodes whose requests come to the
    router more than once, as after failures, are played and not asked about. Answers are the memory that goes
    into a checkpoint.
    """

    policy: RouterPolicy

    def __init__(
        self,
        policy: type[RouterPolicy],
        env: VecEnv,
        config: CounterfactualConfig | None = None,
        seed: int | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        device: str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        """Without a config only to be filled by `load`."""
        self.config = CounterfactualConfig() if config is None else config
        super().__init__(
            policy,
            env,
            learning_rate=LinearSchedule(self.config.learning_rate, self.config.final_learning_rate, 1.0),
            policy_kwargs=policy_kwargs,
            seed=seed,
            device=device,
            support_multi_env=True,
            supported_action_spaces=(spaces.Discrete,),
        )
        self._n_updates = 0
        self._rng = np.random.default_rng(self.seed)
        self.answers: list[_Answers] = []  # of each scenario
        self._played = _Played(self.n_envs)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = RouterPolicy(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "answers", "_played", "_scenarios", "_part_of"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def save_replay_buffer(self, path: Path) -> None:
        """Writes what is remembered, under the name that SB3 has for it."""
        save_to_pkl(path, self.answers)

    def load_replay_buffer(self, path: Path) -> None:
        """Remembers what was written."""
        self.answers = load_from_pkl(path)

    def relive(self, observation: Any, actions: np.ndarray, dones: np.ndarray) -> None:
        """A step of long ago, of an episode that may still be going on."""
        self._played.add(observation, actions)
        for k in np.flatnonzero(dones).tolist():
            self._played.take(k)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> "Counterfactual":
        """Makes decisions until there are `total_timesteps`; learns after every `n_steps` in each episode."""
        total, callbacks = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        assert self.env is not None
        native = _native(self.env)
        self._scenarios: list[Scenario] = [part.scenario for part in getattr(native, "parts", [native])]
        self._part_of = getattr(native, "part_of", np.zeros(self.n_envs, np.int64))
        if not self.answers:
            share = max(1, self.config.memory_size // len(self._scenarios))
            self.answers = [_Answers(share, self.observation_space) for _ in self._scenarios]
        callbacks.on_training_start(locals(), globals())
        while self.num_timesteps < total:
            callbacks.on_rollout_start()
            self._play(callbacks)
            callbacks.on_rollout_end()
            self._update_current_progress_remaining(self.num_timesteps, total)
            self._train()
            self.logger.dump(self.num_timesteps)
        callbacks.on_training_end()
        if self.config.search_episodes:
            self._search()
        return self

    def _search(self) -> None:
        """At loads between those of the first and the last episodes."""
        network, rate = self.policy.network, 0.5 * (self.config.start_rate + 1.0)
        assert isinstance(network, RouterNetwork)
        self.policy.set_training_mode(mode=False)
        latency, ttft = search_departure(
            network, self._scenarios, self.seed or 0, self.config.search_episodes, rate
        )
        self.logger.record("train/departure_where_latency", latency)
        self.logger.record("train/departure_where_ttft", ttft)
        self.logger.dump(self.num_timesteps)

    def _play(self, callbacks: Any) -> None:
        """`n_steps` decisions in each environment; asks about the episodes that end."""
        assert self.env is not None
        self.policy.set_training_mode(mode=False)
        for _ in range(self.config.n_steps):
            observation: Any = self._last_obs
            actions = self._choose(observation)
            self._played.add(observation, actions)
            self._last_obs, rewards, dones, infos = self.env.step(actions)  # type: ignore[assignment]
            self.num_timesteps += self.n_envs
            callbacks.update_locals(locals())
            callbacks.on_step()
            for k in np.flatnonzero(dones).tolist():
                self._ask(k, infos[k]["workload"])

    def _choose(self, observation: Any) -> np.ndarray:
        with torch.inference_mode():
            logits, _ = self.policy.network.scores(obs_as_tensor(observation, self.device))
        drawn = self._rng.random(self.n_envs) < self.config.exploration
        noise = self._rng.gumbel(size=logits.shape) * drawn[:, None]
        actions: np.ndarray = (logits.numpy() + noise).argmax(axis=1)
        return actions

    def _ask(self, k: int, workload: Any) -> None:
        observations, actions = self._played.take(k)
        part = int(self._part_of[k])
        scenario = self._scenarios[part]
        if len(actions) != workload.num_requests or scenario.num_replicas < 2:
            return
        found = marginal_costs(
            scenario,
            workload,
            actions,
            self._rng,
            rounds=self.config.rounds,
            spacing_s=self.config.spacing_s,
        )
        # As a share of the episode's mean: seconds are lost by the hundred in a busy episode, and by the one
        # in a calm one, which is to count as much.
        shares = found.costs / max(found.mean_cost, 1e-6)
        for request, costs in zip(found.requests.tolist(), shares, strict=True):
            self.answers[part].add({name: rows[k] for name, rows in observations[request].items()}, costs)

    def _train(self) -> None:
        """`gradient_steps` steps, each from as many answers of every scenario."""
        known = [answers for answers in self.answers if answers.count > 0]
        if not known:
            return
        self.policy.set_training_mode(mode=True)
        self._update_learning_rate(self.policy.optimizer)
        spreads = [answers.spread() for answers in known]
        share = max(1, self.config.batch_size // len(known))
        losses = []
        for _ in range(self.config.gradient_steps):
            loss = torch.zeros(())
            for answers, spread in zip(known, spreads, strict=True):
                observation, advantages = answers.sample(share, spread, self._rng)
                logits, _ = self.policy.network.scores(observation)
                expected = (torch.softmax(logits, dim=1) * advantages).sum(dim=1)
                loss = loss + expected.mean() / len(known)
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
            self.policy.optimizer.step()
            losses.append(float(loss.detach()))
        self._n_updates += self.config.gradient_steps
        self.logger.record("train/expected_cost", float(np.mean(losses)))
        self.logger.record("train/answers", sum(answers.seen for answers in self.answers))


class _Played:
    """The decisions of the episodes that are still being played, K at a step."""

    def __init__(self, num_envs: int) -> None:
        self.steps: deque[tuple[dict[str, np.ndarray], np.ndarray]] = deque()
        self.first = 0  # the number of the oldest step kept
        self.began = np.zeros(num_envs, np.int64)  # the step at which each episode began

    def add(self, observation: dict[str, np.ndarray], actions: np.ndarray) -> None:
        self.steps.append((observation, actions))

    def take(self, k: int) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
        """Observations (of all) and actions (of this one) of the episode that ended; forgets old steps."""
        steps = list(self.steps)[self.began[k] - self.first :]
        self.began[k] = self.first + len(self.steps)
        while self.first < self.began.min():
            self.steps.popleft()
            self.first += 1
        return [observation for observation, _ in steps], np.array([actions[k] for _, actions in steps])


class _Answers:
    """The newest answers about one scenario; costs are shares of a request's mean cost in its episode."""

    def __init__(self, size: int, space: spaces.Space[Any]) -> None:
        assert isinstance(space, spaces.Dict)
        self.observation = {
            name: np.zeros((size, *(part.shape or ())), np.float32) for name, part in space.items()
        }
        self.slots = self.observation["replicas"].shape[1]
        self.costs = np.full((size, self.slots), np.nan, np.float32)
        self.size, self.seen = size, 0

    @property
    def count(self) -> int:
        """How many are remembered."""
        return min(self.seen, self.size)

    def add(self, observation: dict[str, np.ndarray], costs: np.ndarray) -> None:
        place = self.seen % self.size
        for name, value in observation.items():
            self.observation[name][place] = value
        self.costs[place] = np.nan
        self.costs[place, : len(costs)] = costs
        self.seen += 1

    def spread(self) -> float:
        """The typical standard deviation of costs between replicas."""
        return max(1e-6, float(np.median(np.nanstd(self.costs[: self.count], axis=1))))

    def sample(
        self, number: int, spread: float, rng: np.random.Generator
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Observations, and what each replica costs beyond the mean of all, in spreads (number, slots)."""
        rows = rng.integers(self.count, size=number)
        costs = self.costs[rows]
        advantages = (costs - np.nanmean(costs, axis=1, keepdims=True)) / spread
        bounded = np.nan_to_num(np.clip(advantages, -LARGEST_ADVANTAGE, LARGEST_ADVANTAGE), nan=0.0)
        observation = {name: torch.from_numpy(array[rows]) for name, array in self.observation.items()}
        return observation, torch.from_numpy(bounded)


def _native(env: VecEnv) -> Any:
    """The native environment below SB3's."""
    inner: Any = env
    while isinstance(inner, VecEnv):
        inner = inner.venv if hasattr(inner, "venv") else inner.env  # type: ignore[attr-defined]
    return inner


def build_counterfactual(
    config: CounterfactualConfig, vec_env: VecEnv, seed: int, tensorboard_dir: Path | None = None
) -> Counterfactual:
    """A fresh learner; every draw comes from `seed`. InputError for environments of another kind."""
    if not isinstance(vec_env.observation_space, spaces.Dict):
        raise InputError(
            "agent.algorithm = counterfactual: learns to route, from observations that are not flat"
        )
    options = {"network": config.network, "hidden": config.hidden, "layers": config.layers}
    env = NormalisedRewards(vec_env, gamma=0.99)
    model = Counterfactual(
        RouterPolicy, env, config, seed, {**options, "optimizer_kwargs": {"eps": 1e-5, "fused": True}}
    )
    log_to(model, tensorboard_dir)
    return model
