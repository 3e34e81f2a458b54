"""The decisions of a trained policy on its own way: what it saw, what it chose, and when."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from servegym.costmodels.progress import progress, tracked
from servegym.envs.batching.episodes import BatchingEpisodes
from servegym.envs.batching.observation import observation_of
from servegym.envs.routing.fleet_episodes import routing_episodes
from servegym.envs.scenario import Scenario
from servegym.envs.workloads import Workload

MOST = 20_000
"""Decisions of a scheduler that are kept, of a workload: each is some kilobytes."""

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
    rows: list[_Row] = []
    for number, workload in enumerate(workloads):
        episodes = routing_episodes(scenario, 1, workload.num_requests)
        episodes.begin(0, workload)
        with progress("Playing", workload.num_requests, "decisions") as advance:
            while not episodes.finished[0]:
                now_s, legal = float(episodes.episodes[0].now_s), episodes.legal_actions()[0].copy()
                rows.append(_decide(policy, number, now_s, episodes.observation, legal))
                episodes.step(np.array([rows[-1].action]))
                advance()
    return _stack(rows)


def scheduling_decisions(policy: Scored, scenario: Scenario, workloads: Sequence[Workload]) -> Decisions:
    """What `policy` decides while it schedules the one replica, the first MOST decisions of each workload."""
    rows: list[_Row] = []
    for number, workload in enumerate(workloads):
        episodes = BatchingEpisodes(scenario, 1, workload.num_requests)
        episodes.begin(0, workload)
        observation = observation_of(episodes.rows, flat=False)
        for _ in tracked(range(MOST), "Playing", "decisions"):
            if episodes.finished[0]:
                break
            now_s = float(episodes.fleet.replicas[0].clock_s)
            rows.append(_decide(policy, number, now_s, observation, episodes.legal_actions()[0]))
            episodes.step(np.array([rows[-1].action]))
    return _stack(rows)


class _Row(NamedTuple):
    workload: int
    time_s: float
    observation: Observation
    legal: Legal
    action: int


def _decide(policy: Scored, workload: int, now_s: float, observation: Observation, legal: Legal) -> _Row:
    action = int(policy.scores(observation)[0].argmax())
    seen = {name: array[0].copy() for name, array in observation.items()}
    return _Row(workload, now_s, seen, legal, action)


def _stack(rows: list[_Row]) -> Decisions:
    workloads, times_s, observations, legal, actions = zip(*rows, strict=True)
    return Decisions(
        np.array(workloads),
        np.array(times_s),
        {name: np.stack([each[name] for each in observations]) for name in observations[0]},
        np.stack(legal),
        np.array(actions, np.int64),
    )
