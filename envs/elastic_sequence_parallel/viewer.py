"""The picture of an elastic fleet: the KV tokens of each instance, the requests of each group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.envs.elastic_sequence_parallel.asking import GO_ON, LESS, MERGE, MORE, SCALING
from servegym.envs.elastic_sequence_parallel.memory import STAGE, SUBJECT
from servegym.envs.sim.elastic.accrual import LATE
from servegym.envs.sim.elastic.fleet import ElasticFleet
from servegym.envs.sim.elastic.state import (
    DECODES,
    NEXT_ARRIVAL,
    NOBODY,
    NUM_REQUESTS,
    NUM_WAITING,
    PREFILLS,
    RESTS,
    FleetState,
)
from servegym.envs.viewer import (
    FAINT,
    GONE,
    INK,
    RUNNING,
    WAITING,
    Bars,
    History,
    Part,
    legend_above,
    plain,
    round_up,
)

_ACTIVITIES = ((PREFILLS, "prefill", WAITING), (DECODES, "decode", RUNNING), (RESTS, "at rest", GONE))


@dataclass(frozen=True)
class FleetSnapshot:
    """A fleet of N instances at a decision.

    used: KV tokens, (N,). runs: what each instance does, (N,), as `FleetState.activity`. requests, activity,
    instances: of each of 2 N groups. asked: the group asked about, or NOBODY.
    """

    time_s: float
    num_arrived: int
    num_requests: int
    num_late: int
    num_waiting: int
    used: npt.NDArray[np.int64]
    runs: npt.NDArray[np.int8]
    requests: npt.NDArray[np.int64]
    activity: npt.NDArray[np.int8]
    asked: int

    @classmethod
    def of(cls, state: FleetState) -> "FleetSnapshot":
        """Of now."""
        groups = 2 * state.num_instances
        scaling = state.integers[STAGE] == SCALING
        subject = int(state.integers[SUBJECT])
        return cls(
            float(state.clock[0]),
            int(state.counters[NEXT_ARRIVAL]),
            int(state.counters[NUM_REQUESTS]),
            int(state.costs[LATE]),
            int(state.counters[NUM_WAITING]),
            state.used.copy(),
            np.where(state.runs_for == NOBODY, RESTS, state.activity[state.runs_for]),
            state.size[:groups].copy(),
            state.activity[:groups].copy(),
            subject if scaling and subject < groups else NOBODY,
        )

    @property
    def num_in_groups(self) -> int:
        """Requests in groups."""
        return int(self.requests.sum())

    def past(self) -> tuple[float, float, float]:
        """What `History` shows of it."""
        return self.time_s, float(self.num_in_groups), float(self.num_waiting)


class _ByActivity:
    """A bar for each place of a row, in the colour of what it does."""

    def __init__(self, axes: Any, num_bars: int, title: str) -> None:
        self.axes = plain(axes)
        axes.set_xlim(-0.6, num_bars - 0.4)
        axes.set_title(title, loc="left", fontsize=10, color=INK, pad=5)
        axes.set_xticks(np.arange(0, num_bars, -(-num_bars // 16)))
        self._bars = [Bars(axes, num_bars, colour, label) for _, label, colour in _ACTIVITIES]
        legend_above(axes, [bars.artist for bars in self._bars])
        self.moving: list[Any] = [bars.artist for bars in self._bars]

    def show(self, heights: npt.NDArray[Any], activity: npt.NDArray[np.int8]) -> None:
        for bars, (which, _, _) in zip(self._bars, _ACTIVITIES, strict=True):
            bars.show(np.where(activity == which, heights, np.nan))


class InstancePart(_ByActivity):
    """KV tokens of each instance, up to its pool."""

    def __init__(self, axes: Any, fleet: ElasticFleet) -> None:
        super().__init__(axes, fleet.num_instances, "1,000 KV tokens by instance")
        axes.set_ylim(0, fleet.kv_tokens / 1e3)
        axes.set_xlabel("instance", fontsize=9, color=FAINT, labelpad=1)

    def update(self, snapshot: FleetSnapshot) -> None:
        """Shows another instant."""
        self.show(snapshot.used / 1e3, snapshot.runs)

    def limits(self) -> tuple[float, ...]:
        """They stay."""
        return ()


class GroupPart(_ByActivity):
    """Requests of each group; a mark above the one asked about."""

    def __init__(self, axes: Any, fleet: ElasticFleet) -> None:
        super().__init__(axes, 2 * fleet.num_instances, "requests by group")
        (self._asked,) = axes.plot([], [], marker="v", color=INK, markersize=7, linestyle="", clip_on=False)
        self.moving.append(self._asked)
        self._top = 0.0

    def update(self, snapshot: FleetSnapshot) -> None:
        """Shows another instant."""
        self._top = max(self._top, round_up(float(snapshot.requests.max())))
        self.axes.set_ylim(0, self._top)
        self.show(snapshot.requests.astype(np.float64), snapshot.activity)
        asked = [] if snapshot.asked == NOBODY else [snapshot.asked]
        self._asked.set_data(asked, [1.04 * self._top] * len(asked))

    def limits(self) -> tuple[float, ...]:
        """Of the axis of requests."""
        return (self._top,)


def words(action: int, num_instances: int) -> str:
    """A decision in words."""
    if action == GO_ON:
        return "go on"
    if action <= 2 * num_instances:
        order, degree = divmod(action - 1, num_instances)
        return f"prefill {'shortest' if order else 'first'} on {degree + 1}"
    return {MORE: "one more", LESS: "one less", MERGE: "join"}[action - 2 * num_instances]


def lay_out(figure: Any, fleet: ElasticFleet) -> Sequence[Part]:
    """Instances, groups, and the past below: two parts that take a FleetSnapshot, and `History`."""
    grid = figure.add_gridspec(
        3, 1, height_ratios=(2.6, 2.2, 1.2), left=0.075, right=0.975, top=0.79, bottom=0.035, hspace=0.5
    )
    instances, groups, past = (figure.add_subplot(cell) for cell in grid)
    return InstancePart(instances, fleet), GroupPart(groups, fleet), History(past)
