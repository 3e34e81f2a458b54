"""A decision problem: K episodes side by side, as both forms of its Gymnasium environment see them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.flat import flatten
from servegym.envs.metrics import SloLimits, summarise
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.scenario.stream import EpisodeStream
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload

Observation = Any
"""An array, or a dict of arrays; of K episodes with a leading axis K."""


class Episodes(Protocol):
    """K episodes of one scenario, advanced together; knows nothing of Gymnasium.

    What the agent sees, `rewards`, float64 (K,), and `finished`, bool (K,), are written in place.
    """

    rewards: np.ndarray
    finished: np.ndarray

    def begin(self, episode_id: int, workload: Workload) -> None:
        """Starts episode `episode_id` afresh and goes to its first decision."""

    def legal_actions(self) -> np.ndarray:
        """bool (K, actions), a new array: True where an action is legal."""

    def results(self, episode_id: int) -> Results:
        """What happened to the requests of an episode so far."""


@dataclass(frozen=True)
class Problem:
    """K episodes, where their workloads come from, and the spaces of one of them.

    step: takes actions with a leading axis K, one decision in every episode that is not finished;
    ValueError names the first that is not legal, and then nothing has changed. observation: written in
    place by `episodes`. energy_j: joules of an episode that is over; None where they are not counted.
    flat: whether the parts of `observation` are seen as one array (flat.py), the space being flat as well.
    limits: what the requests of each episode that has begun were promised.
    """

    streams: Sequence[EpisodeStream]
    episodes: Episodes
    step: Callable[[np.ndarray], None]
    observation: Observation
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    energy_j: Callable[[int], float | None] = lambda episode_id: None
    flat: bool = False
    limits: dict[int, SloLimits] = field(default_factory=dict, init=False)

    def begin(self, episode_id: int) -> None:
        """Starts the next episode of a stream."""
        stream = self.streams[episode_id]
        workload = stream.next_workload()
        self.episodes.begin(episode_id, workload)
        self.limits[episode_id] = stream.scenario.slo_limits(workload)

    def seen(self, index: int | slice) -> Observation:
        """A copy of what is seen of an episode, or of several."""
        if self.flat:
            return flatten(self.observation, index)
        if isinstance(self.observation, dict):
            return {key: value[index].copy() for key, value in self.observation.items()}
        return self.observation[index].copy()

    def metrics(self, episode_id: int) -> dict[str, float]:
        """The summary of an episode that is over, with what its requests were promised."""
        results, energy_j = self.episodes.results(episode_id), self.energy_j(episode_id)
        summary = summarise(results, self.limits[episode_id])
        if energy_j is not None:
            per_token = energy_j / float(results.output_tokens.sum())
            summary |= {"energy_j": energy_j, "energy_j_per_output_token": per_token}
        return summary


def episode_streams(scenario: str | Scenario, split: str, count: int) -> list[EpisodeStream]:
    """Streams of a scenario, or of the one of a name in conf/scenario; InputError for one with a ranking."""
    if isinstance(scenario, str):
        scenario = load_scenario(scenario)
    if scenario.ranking is not None:
        raise InputError(
            f"scheduler {scenario.ranking.name}: must be none in an environment, whose engines schedule as "
            "scenario.engine.scheduler says"
        )
    return [EpisodeStream(scenario, split) for _ in range(count)]
