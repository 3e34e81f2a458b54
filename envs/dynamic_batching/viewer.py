"""The picture of a batching server: the queue at its last decisions, and the batch taken from it."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from servegym.envs.viewer import INK, RUNNING, WAITING, Bars, History, Part, legend_above, plain, round_up


class DecisionsPart:
    """A bar for each of the last decisions, the newest on the right: the batch, and who waited on.

    A snapshot is (number of decisions, requests that wait, size of the last batch or 0).
    """

    SHOWN = 48

    def __init__(self, axes: Any) -> None:
        self._axes = plain(axes)
        axes.set(xlim=(-0.6, self.SHOWN - 0.4), xticks=[])
        axes.set_title("requests at the last decisions", loc="left", fontsize=10, color=INK, pad=5)
        self._batch = Bars(axes, self.SHOWN, RUNNING, "batch")
        self._waiting = Bars(axes, self.SHOWN, WAITING, "waiting")
        legend_above(axes, [self._batch.artist, self._waiting.artist])
        self.moving = [self._batch.artist, self._waiting.artist]
        self._past: deque[tuple[int, float, int]] = deque(maxlen=self.SHOWN)
        self._top = 0.0

    def update(self, snapshot: tuple[int, float, int]) -> None:
        """Adds a decision; one before the last is of another episode."""
        if self._past and snapshot[0] < self._past[-1][0]:
            self._past.clear()
        if not self._past or self._past[-1] != snapshot:
            self._past.append(snapshot)
        _, queue, batch = np.array(self._past, float).T
        gap = np.full(self.SHOWN - len(queue), np.nan)
        self._top = max(self._top, round_up(float((queue + batch).max())))
        self._axes.set_ylim(0, self._top)
        self._batch.show(np.concatenate([gap, batch]))
        self._waiting.show(np.concatenate([gap, queue + batch]), np.concatenate([gap, batch]))

    def limits(self) -> tuple[float, ...]:
        """Of the axis of requests."""
        return (self._top,)


def lay_out(figure: Any) -> Sequence[Part]:
    """The decisions, and the past below: parts that take what `DecisionsPart` and what `History` takes."""
    grid = figure.add_gridspec(
        2, 1, height_ratios=(3.2, 1.3), left=0.075, right=0.975, top=0.79, bottom=0.035, hspace=0.35
    )
    decisions, past = (figure.add_subplot(cell) for cell in grid)
    return DecisionsPart(decisions), History(past)
