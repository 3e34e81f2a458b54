"""The picture of a cluster: the batches of each GPU through time, the queue of each model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.envs.deferred_batching.asking import LATE, SIZE
from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.state import (
    ACTIVE,
    NEXT_ARRIVAL,
    NOBODY,
    NOW,
    NUM_DROPPED,
    NUM_REQUESTS,
    NUM_ROWS,
    ClusterState,
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

COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#332288", "#999933")
"""Of models in turn [most of them Okabe and Ito's]."""

PAST, FUTURE = 4, 1
"""How much of the time is shown, in multiples of the longest objective."""


@dataclass(frozen=True)
class ClusterSnapshot:
    """A cluster of M models and G GPUs at a decision.

    batches: those not long ended, `state.BATCH`. active, idle: bool (G,). waiting, candidate: requests in the
    queue and in the candidate of each model, (M,). asked: the model asked about, or NOBODY.
    """

    time_s: float
    num_arrived: int
    num_requests: int
    num_bad: int
    batches: np.ndarray
    active: npt.NDArray[np.bool_]
    idle: npt.NDArray[np.bool_]
    waiting: npt.NDArray[np.int64]
    candidate: npt.NDArray[np.int64]
    asked: int

    @classmethod
    def of(cls, state: ClusterState, span_s: float) -> "ClusterSnapshot":
        """With the batches that ended at most `span_s` seconds ago."""
        time_s = float(state.clock[NOW])
        batches = state.batches[: state.counters[NUM_ROWS]]
        active = state.status == ACTIVE
        waiting = state.tail - state.head
        return cls(
            time_s,
            int(state.counters[NEXT_ARRIVAL]),
            int(state.counters[NUM_REQUESTS]),
            int(state.counters[NUM_DROPPED] + state.memory[LATE]),
            batches[batches["end_s"] > time_s - span_s].copy(),
            active,
            active & (state.held == 0),
            waiting,
            np.where(waiting > 0, state.model_memory[:, SIZE].astype(np.int64), 0),
            int(np.argmin(_keys(state))) if np.isfinite(_keys(state)).any() else NOBODY,
        )

    @property
    def num_running(self) -> int:
        """Requests in batches that have not ended."""
        return int(self.batches["num_requests"][self.batches["end_s"] > self.time_s].sum())

    def past(self) -> tuple[float, float, float]:
        """What `History` shows of it."""
        return self.time_s, float(self.num_running), float(self.waiting.sum())


def _keys(state: ClusterState) -> np.ndarray:
    return state.pool[len(state.pool) // 2 :][: state.num_models]


class TimelinePart:
    """A line for each GPU with its batches, in the colour of their model; now is 0."""

    def __init__(self, axes: Any, cluster: BatchCluster, span_s: float) -> None:
        from matplotlib.collections import PolyCollection
        from matplotlib.patches import Patch

        plain(axes).grid(visible=False)
        axes.set(xlim=(-1e3 * PAST * span_s, 1e3 * FUTURE * span_s), ylim=(cluster.num_gpus - 0.4, -0.6))
        axes.set_title("batches by GPU", loc="left", fontsize=10, color=INK, pad=5)
        axes.set_xlabel("ms from now", fontsize=9, color=FAINT, labelpad=1)
        axes.set_yticks(np.arange(0, cluster.num_gpus, -(-cluster.num_gpus // 12)))
        axes.axvline(0.0, color=INK, linewidth=0.8)
        if len(cluster.models) <= len(COLOURS):
            legend_above(
                axes,
                [Patch(color=COLOURS[i], label=model.name) for i, model in enumerate(cluster.models)],
            )
        self._batches: Any = PolyCollection([], edgecolors="white", linewidths=0.5)
        self._gone: Any = PolyCollection([], facecolors=GONE)
        self._left, self._right = axes.get_xlim()
        for each in (self._gone, self._batches):
            axes.add_collection(each)
        self.moving = [self._gone, self._batches]

    def update(self, snapshot: ClusterSnapshot) -> None:
        """Shows another instant."""
        batches = snapshot.batches
        start, end = (1e3 * (batches[name] - snapshot.time_s) for name in ("start_s", "end_s"))
        self._batches.set_verts(
            _boxes(np.maximum(start, self._left), np.minimum(end, self._right), batches["gpu"])
        )
        self._batches.set_facecolors([COLOURS[model % len(COLOURS)] for model in batches["model"]])
        gone = np.flatnonzero(~snapshot.active)
        self._gone.set_verts(_boxes(np.zeros(len(gone)), np.full(len(gone), self._right), gone))

    def limits(self) -> tuple[float, ...]:
        """They stay."""
        return ()


def _boxes(left: np.ndarray, right: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float64 (n, 4, 2): corners of a box in each of n rows."""
    top, bottom = rows - 0.4, rows + 0.4
    return np.stack(
        [
            np.stack(corner, axis=-1)
            for corner in ((left, top), (right, top), (right, bottom), (left, bottom))
        ],
        axis=1,
    )


class QueuePart:
    """A bar for each model: its candidate, and who else waits."""

    def __init__(self, axes: Any, cluster: BatchCluster) -> None:
        num_models = len(cluster.models)
        self._axes = plain(axes)
        axes.set_xlim(-0.6, max(num_models, 4) - 0.4)
        axes.set_title("requests waiting by model", loc="left", fontsize=10, color=INK, pad=5)
        if num_models <= len(COLOURS):
            axes.set_xticks(range(num_models), [model.name for model in cluster.models])
        else:
            axes.set_xticks(np.arange(0, num_models, -(-num_models // 16)))
        self._candidate = Bars(axes, num_models, RUNNING, "candidate")
        self._others = Bars(axes, num_models, WAITING, "others")
        legend_above(axes, [self._candidate.artist, self._others.artist])
        (self._asked,) = axes.plot([], [], marker="v", color=INK, markersize=7, linestyle="", clip_on=False)
        self.moving = [self._candidate.artist, self._others.artist, self._asked]
        self._top = 0.0

    def update(self, snapshot: ClusterSnapshot) -> None:
        """Shows another instant."""
        self._top = max(self._top, round_up(float(snapshot.waiting.max())))
        self._axes.set_ylim(0, self._top)
        candidate = snapshot.candidate.astype(np.float64)
        self._candidate.show(candidate)
        self._others.show(snapshot.waiting.astype(np.float64), candidate)
        asked = [] if snapshot.asked == NOBODY else [snapshot.asked]
        self._asked.set_data(asked, [1.04 * self._top] * len(asked))

    def limits(self) -> tuple[float, ...]:
        """Of the axis of requests."""
        return (self._top,)


def span_of(cluster: BatchCluster) -> float:
    """Seconds: the longest objective, or batch where there is none."""
    return max(model.slo_s if model.slo_s < math.inf else model.latency_s[-1] for model in cluster.models)


def words(action: int, num_gpus: int) -> str:
    """A decision in words."""
    if action == 0:
        return "wait"
    kept, gpu = divmod(action - 1, num_gpus)
    return f"keep more, GPU {gpu}" if kept else f"send to GPU {gpu}"


def lay_out(figure: Any, cluster: BatchCluster) -> Sequence[Part]:
    """The GPUs, the queues, and the past below: two parts that take a ClusterSnapshot, and `History`."""
    grid = figure.add_gridspec(
        3, 1, height_ratios=(3.4, 1.6, 1.2), left=0.075, right=0.975, top=0.79, bottom=0.035, hspace=0.5
    )
    gpus, queues, past = (figure.add_subplot(cell) for cell in grid)
    return TimelinePart(gpus, cluster, span_of(cluster)), QueuePart(queues, cluster), History(past)
