"""A decision problem: K episodes side by side, as both forms of its Gymnasium environment see them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import gymnasium as gym
import numpy as np

from servegym.envs.flat import flatten

Observation = Any
"""An array, or a dict of arrays; of K episodes with a leading axis K."""

Load = TypeVar("Load")
"""What an episode is of: the requests that come, as the simulator behind the environment takes them."""
LoadIn = TypeVar("LoadIn", contravariant=True)
LoadOut = TypeVar("LoadOut", covariant=True)


class Named(Protocol):
    """A scenario, as far as all environments have one."""

    @property
    def name(self) -> str:
        """Of the scenario, for people."""


class Stream(Protocol[LoadOut]):
    """Episodes of a scenario, one after another, reproducible from a seed."""

    @property
    def scenario(self) -> Named:
        """What all of them are episodes of."""

    def restart(self, seed: int | None) -> None:
        """Back to the first episode of stream `seed`; None: a stream nobody has seen."""

    def next_workload(self) -> LoadOut:
        """The requests of the next episode."""


class Episodes(Protocol[LoadIn]):
    """K episodes of one scenario, advanced together; knows nothing of Gymnasium.

    What the agent sees, `rewards`, float64 (K,), and `finished`, bool (K,), are written in place.
    """

    rewards: np.ndarray
    finished: np.ndarray

    def begin(self, episode_id: int, workload: LoadIn) -> None:
        """Starts episode `episode_id` afresh and goes to its first decision."""

    def legal_actions(self) -> np.ndarray:
        """bool (K, actions), a new array: True where an action is legal."""


@dataclass(frozen=True)
class Problem(Generic[Load]):
    """K episodes, where their workloads come from, and the spaces of one of them.

    step: takes actions with a leading axis K, one decision in every episode that is not finished;
    ValueError names the first that is not legal, and then nothing has changed. observation: written in
    place by `episodes`. summarise: what is said of an episode that is over, given its workload. flat: whether
    the parts of `observation` are seen as one array (flat.py), the space being flat as well. workloads: of
    each episode that has begun.
    """

    streams: Sequence[Stream[Load]]
    episodes: Episodes[Load]
    step: Callable[[np.ndarray], None]
    observation: Observation
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    summarise: Callable[[int, Load], dict[str, float]]
    flat: bool = False
    workloads: dict[int, Load] = field(default_factory=dict, init=False)

    def begin(self, episode_id: int) -> None:
        """Starts the next episode of a stream."""
        workload = self.streams[episode_id].next_workload()
        self.episodes.begin(episode_id, workload)
        self.workloads[episode_id] = workload

    def seen(self, index: int | slice) -> Observation:
        """A copy of what is seen of an episode, or of several."""
        if self.flat:
            return flatten(self.observation, index)
        if isinstance(self.observation, dict):
            return {key: value[index].copy() for key, value in self.observation.items()}
        return self.observation[index].copy()

    def metrics(self, episode_id: int) -> dict[str, float]:
        """The summary of an episode that is over."""
        return self.summarise(episode_id, self.workloads[episode_id])
