"""`servegym/TwoLevel-v0` in PettingZoo's form: a router and a scheduler for each replica are the agents."""

from typing import Any

import gymnasium as gym
import numpy as np
from pettingzoo import AECEnv

from servegym.envs.batching.observation import observation_space as batching_space
from servegym.envs.metrics import summarise
from servegym.envs.routing.observation import observation_space as routing_space
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.scenario.stream import EpisodeStream
from servegym.envs.sim.llm.decisions import NUM_CHOICES
from servegym.envs.two_level.env import DEFAULT_SCENARIO
from servegym.envs.two_level.episodes import TwoLevelEpisodes
from servegym.envs.two_level.observation import ROUTING, SCHEDULING

ROUTER = "router"

_PARTS = {ROUTING: ("request", "replicas", "setting"), SCHEDULING: ("engine", "requests")}


class TwoLevelAECEnv(AECEnv):  # type: ignore[misc]  # pettingzoo publishes no types
    """The decisions of `TwoLevelEnv`, each taken by the agent of its level and replica.

    Agents: "router", "scheduler_0", ..., one for each replica; `agent_selection` is the one whose decision is
    due. Observation: a Dict of `observation`, that of `servegym/Routing-v0` or `servegym/Batching-v0`, and
    `action_mask`, int8; for an agent that is not selected it is 0 throughout. Action: Discrete(R) or
    Discrete(68). Every agent gets every reward, which is that of the whole fleet; all end together.

    Arguments as in `TwoLevelEnv`. Needs the package pettingzoo (`pip install 'servegym[multiagent]'`).
    """

    metadata = {"name": "servegym/TwoLevel-v0", "render_modes": [], "is_parallelizable": False}

    def __init__(self, scenario: str | Scenario = DEFAULT_SCENARIO, split: str = "train") -> None:
        super().__init__()
        self.scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
        self.render_mode = None
        self._stream = EpisodeStream(self.scenario, split)
        self._episodes = TwoLevelEpisodes(self.scenario, 1, self._stream.max_requests)
        count = self.scenario.num_replicas
        self._schedulers = [f"scheduler_{replica}" for replica in range(count)]
        self.possible_agents = [ROUTER, *self._schedulers]
        self.action_spaces = {ROUTER: gym.spaces.Discrete(count)}
        self.observation_spaces = {ROUTER: _with_mask(routing_space(count), count)}
        for scheduler in self._schedulers:
            self.action_spaces[scheduler] = gym.spaces.Discrete(NUM_CHOICES)
            self.observation_spaces[scheduler] = _with_mask(batching_space(flat=False), NUM_CHOICES)

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """The space of an agent's observations."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """The space of an agent's actions."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Starts the next episode of the stream, or the first of stream `seed`."""
        if seed is not None:
            self._stream.restart(seed)
        workload = self._stream.next_workload()
        self._episodes.begin(0, workload)
        self._limits = self.scenario.slo_limits(workload)
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agent_selection = self._agent_due()

    def step(self, action: Any) -> None:
        """Takes the decision of `agent_selection`; None once the episode is over, as PettingZoo has it."""
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        first = 0 if agent == ROUTER else len(self._schedulers)
        allowed = self.action_spaces[agent].n
        if not 0 <= action < allowed:
            raise ValueError(f"action {action} of {agent}: must be from 0 to {allowed - 1}")
        self._episodes.step(np.array([first + action], np.int64))
        self._cumulative_rewards[agent] = 0.0
        self.rewards = dict.fromkeys(self.agents, float(self._episodes.rewards[0]))
        self._accumulate_rewards()
        if self._episodes.finished[0]:
            self.terminations = dict.fromkeys(self.agents, True)
            metrics = summarise(self._episodes.results(0), self._limits)
            self.infos = {agent: {"episode_metrics": metrics} for agent in self.agents}
        self.agent_selection = self._agent_due()

    def observe(self, agent: str) -> Any:
        """What an agent sees now, and what it may do: nothing while another one is due."""
        level = ROUTING if agent == ROUTER else SCHEDULING
        seen = {key: self._episodes.observation[key][0].copy() for key in _PARTS[level]}
        count = len(self._schedulers)
        mask = self._episodes.masks[0, :count] if level == ROUTING else self._episodes.masks[0, count:]
        if agent != self._agent_due():
            seen = {key: np.zeros_like(value) for key, value in seen.items()}
            mask = np.zeros_like(mask)
        return {"observation": seen, "action_mask": mask.astype(np.int8)}

    def _agent_due(self) -> str:
        observation = self._episodes.observation
        if observation["level"][0] == ROUTING:
            return ROUTER
        return self._schedulers[int(observation["replica"][0])]


def _with_mask(space: gym.Space[Any], count: int) -> gym.Space[Any]:
    return gym.spaces.Dict({"observation": space, "action_mask": gym.spaces.Box(0, 1, (count,), np.int8)})
