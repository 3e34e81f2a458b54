"""The picture of a fleet: what every replica runs, what waits there, and how full its KV cache is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.envs.sim.llm.view import AVAILABLE, KV_TOTAL_BLOCKS, KV_USED_BLOCKS
from servegym.envs.sim.llm.view import RUNNING as RUNNING_COLUMN
from servegym.envs.sim.llm.view import WAITING as WAITING_COLUMN
from servegym.envs.viewer import (
    FAINT,
    INK,
    LINES,
    RUNNING,
    WAITING,
    Bars,
    Floats,
    History,
    Part,
    legend_above,
    plain,
    round_up,
)

ALMOST_FULL = 0.9
KV, KV_ALMOST_FULL = "#009E73", "#D55E00"


@dataclass(frozen=True)
class FleetSnapshot:
    """R replicas at one instant.

    running, waiting: requests (R,); kv_share: share of the KV blocks in use (R,); available: bool (R,).
    chosen: the replica that the last decision was about, or -1.
    """

    running: Floats
    waiting: Floats
    kv_share: Floats
    available: npt.NDArray[np.bool_]
    chosen: int

    @classmethod
    def of(cls, rows: np.ndarray, chosen: int) -> "FleetSnapshot":
        """From what a router sees: rows (R, REPLICA_FEATURES)."""
        rows = rows.astype(np.float64)
        return cls(
            rows[:, RUNNING_COLUMN],
            rows[:, WAITING_COLUMN],
            rows[:, KV_USED_BLOCKS] / np.maximum(rows[:, KV_TOTAL_BLOCKS], 1),
            rows[:, AVAILABLE] > 0,
            chosen,
        )

    def past(self, time_s: float) -> tuple[float, float, float]:
        """What `History` shows of it."""
        return time_s, float(self.running.sum()), float(self.waiting.sum())


class FleetPart:
    """Two rows of bars, one for each replica: its requests, and the share of its KV blocks in use."""

    def __init__(self, requests: Any, kv: Any, num_replicas: int) -> None:
        self._requests, self._kv = plain(requests), plain(kv)
        for axes, name in ((requests, "requests"), (kv, "KV cache in use")):
            axes.set_xlim(-0.6, num_replicas - 0.4)
            axes.set_title(name, loc="left", fontsize=10, color=INK, pad=5)
            axes.set_xticks(np.arange(0, num_replicas, -(-num_replicas // 16)))
        requests.set_xticklabels([])
        kv.set(ylim=(0, 1), yticks=(0, 0.5, 1), yticklabels=("0 %", "50 %", "100 %"))
        kv.set_xlabel("replica", fontsize=9, color=FAINT, labelpad=1)
        self._gone = Bars(requests, num_replicas, LINES)
        self._running = Bars(requests, num_replicas, RUNNING, "running")
        self._waiting = Bars(requests, num_replicas, WAITING, "waiting")
        self._fine = Bars(kv, num_replicas, KV, f"up to {100 * ALMOST_FULL:.0f} %")
        self._almost_full = Bars(kv, num_replicas, KV_ALMOST_FULL, "above")
        legend_above(requests, [self._running.artist, self._waiting.artist])
        legend_above(kv, [self._fine.artist, self._almost_full.artist])
        (self._chosen,) = requests.plot(
            [], [], marker="v", color=INK, markersize=8, linestyle="", clip_on=False
        )
        bars = (self._gone, self._running, self._waiting, self._fine, self._almost_full)
        self.moving = [*(each.artist for each in bars), self._chosen]
        self._top = 0.0

    def update(self, snapshot: FleetSnapshot) -> None:
        """Shows another instant."""
        total = snapshot.running + snapshot.waiting
        self._top = max(self._top, round_up(float(total.max(initial=0.0))))
        self._requests.set_ylim(0, self._top)
        almost_full = snapshot.kv_share > ALMOST_FULL
        self._gone.show(np.where(snapshot.available, np.nan, self._top))
        self._running.show(snapshot.running)
        self._waiting.show(total, snapshot.running)
        self._fine.show(np.where(almost_full, np.nan, snapshot.kv_share))
        self._almost_full.show(np.where(almost_full, snapshot.kv_share, np.nan))
        chosen = snapshot.chosen >= 0
        self._chosen.set_data([snapshot.chosen] if chosen else [], [1.04 * self._top] if chosen else [])

    def limits(self) -> tuple[float, ...]:
        """Of the axis of requests."""
        return (self._top,)


def lay_out(figure: Any, num_replicas: int) -> Sequence[Part]:
    """The fleet, and its past below: parts that take a FleetSnapshot and what `History` takes."""
    grid = figure.add_gridspec(
        3, 1, height_ratios=(3.2, 1.7, 1.3), left=0.075, right=0.975, top=0.79, bottom=0.035, hspace=0.5
    )
    requests, kv, past = (figure.add_subplot(cell) for cell in grid)
    return FleetPart(requests, kv, num_replicas), History(past)
