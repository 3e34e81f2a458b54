"""The decisions of a trained policy on its own way: what it saw, what it chose, and when."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from servegym.envs.routing.fleet_episodes import routing_episodes
from servegym.envs.scenario import Scenario
from servegym.envs.workloads import Workload

Observation = dict[str, npt.NDArray[np.float32]]

Legal = npt.NDArray[np.bool_]


class Scored(Protocol):
    """A policy that gives every action a score and takes the highest: networks, exported ones too."""

    def scores(self, observation: Any) -> npt.NDArray[np.float32]:
        """(K, actions) from arrays with a leading axis K."""


@dataclass(frozen=True)
class Decisions:
    """N decisions in order, workload after workload.

    workload: int (N,), which of those played. time_s: (N,). observation: arrays by name, (N, ...). legal:
    bool (N, A). actions: int64 (N,).
    """

    workload: npt.NDArray[np.int64]
    time_s: npt.NDArray[np.float64]
    observation: Observation
    legal: Legal
    actions: npt.NDArray[np.int64]

    @property
    def choices(self) -> npt.NDArray[np.bool_]:
        """Of each decision, whether there was anything to choose."""
        several: npt.NDArray[np.bool_] = self.legal.sum(axis=1) > 1
        return several

    def at(self, which: npt.NDArray[Any]) -> "Decisions":
        """Some of them: a mask or indices (M,)."""
        seen = {name: array[which] for name, array in self.observation.items()}
        return Decisions(
            self.workload[which], self.time_s[which], seen, self.legal[which], self.actions[which]
        )


def routing_decisions(policy: Scored, scenario: Scenario, workloads: Sequence[Workload]) -> Decisions:
    """What `policy` decides while it routes each of the workloads, one after another."""
    rows: list[tuple[int, float, dict[str, Any], Any, int]] = []
    for number, workload in enumerate(workloads):
        episodes = routing_episodes(scenario, 1, workload.num_requests)
        episodes.begin(0, workload)
        while not episodes.finished[0]:
            legal = episodes.legal_actions()[0].copy()
            action = int(policy.scores(episodes.observation)[0].argmax())
            seen = {name: array[0].copy() for name, array in episodes.observation.items()}
            rows.append((number, float(episodes.episodes[0].now_s), seen, legal, action))
            episodes.step(np.array([action]))
    numbers, times_s, observations, legal_rows, actions = zip(*rows, strict=True)
    return Decisions(
        np.array(numbers),
        np.array(times_s),
        {name: np.stack([each[name] for each in observations]) for name in observations[0]},
        np.stack(legal_rows),
        np.array(actions, np.int64),
    )
