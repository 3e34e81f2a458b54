"""Pictures of an episode, into RGB arrays or a window: what all environments' pictures share."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError

RENDER_MODES = ("human", "rgb_array")
RENDER_FPS = 10

WIDTH, HEIGHT, DPI = 960, 600, 100

INK, FAINT, LINES, GONE = "#1f2933", "#7b8794", "#e4e7eb", "#cbd2d9"
RUNNING, WAITING = "#0072B2", "#E69F00"

Floats = npt.NDArray[np.float64]
Frame = npt.NDArray[np.uint8]
Facts = Sequence[tuple[str, str]]
"""What the head line says, (label, value) each."""


class Part(Protocol):
    """One part of a picture."""

    @property
    def moving(self) -> Sequence[Any]:
        """The artists that may differ from one picture to the next."""

    def update(self, snapshot: Any) -> None:
        """Shows another instant."""

    def limits(self) -> tuple[float, ...]:
        """Ends of its axes: where they change, everything is drawn anew."""


def usable_render_modes() -> list[str]:
    """The render modes that work on this machine: `human` needs a display."""
    return [mode for mode in RENDER_MODES if mode != "human" or _has_display()]


class Viewer:
    """Draws instants of an episode: a title, a line of facts, and the parts below.

    lay_out: makes the parts, given the figure, which has its upper fifth taken. Raises InputError for an
    unknown mode, and for `human` where no window can be opened.
    """

    def __init__(self, render_mode: str, title: str, lay_out: Callable[[Any], Sequence[Part]]) -> None:
        if render_mode not in RENDER_MODES:
            raise InputError(f"render_mode = {render_mode}: must be one of {', '.join(RENDER_MODES)}")
        self._human = render_mode == "human"
        self._figure = _window(title) if self._human else _canvas()
        self._figure.text(0.025, 0.955, title, fontsize=13, color=INK, weight="bold", va="center")
        self._parts = lay_out(self._figure)
        self._facts: list[tuple[Any, Any]] = []
        self._background: Any = None
        self._moving = [artist for part in self._parts for artist in part.moving]
        for artist in self._moving:
            artist.set_animated(not self._human)

    def draw(self, facts: Facts, snapshots: Sequence[Any]) -> Frame | None:
        """Draws a snapshot for each part.

        Returns uint8 (HEIGHT, WIDTH, 3), a new array; None where it goes to the window.
        """
        limits = self._limits()
        for part, snapshot in zip(self._parts, snapshots, strict=True):
            part.update(snapshot)
        self._update_facts(facts)
        canvas: Any = self._figure.canvas
        if self._human:
            canvas.draw()
            canvas.start_event_loop(1 / RENDER_FPS)
            return None
        # Axes, titles and legends take most of the time and seldom change: they are drawn once and kept.
        if self._background is None or self._limits() != limits:
            canvas.draw()
            self._background = canvas.copy_from_bbox(self._figure.bbox)
        canvas.restore_region(self._background)
        for artist in self._moving:
            self._figure.draw_artist(artist)
        return np.array(canvas.buffer_rgba())[:, :, :3].copy()

    def close(self) -> None:
        """Closes the window; may be called again."""
        if self._human:
            import matplotlib.pyplot as plt

            plt.close(self._figure)

    def _limits(self) -> tuple[float, ...]:
        return (len(self._facts), *(limit for part in self._parts for limit in part.limits()))

    def _update_facts(self, facts: Facts) -> None:
        for column in range(len(self._facts), len(facts)):
            x = 0.025 + column * 0.95 / len(facts)
            label = self._figure.text(x, 0.905, "", fontsize=9, color=FAINT, va="center")
            value = self._figure.text(x, 0.868, "", fontsize=13, color=INK, va="center")
            for text in (label, value):
                text.set_animated(not self._human)
            self._moving += [label, value]
            self._facts.append((label, value))
        for (label, value), (name, number) in zip(facts, self._facts, strict=True):
            name.set_text(label)
            number.set_text(value)


class Bars:
    """One bar for each of N places of a row, each from a base to an end; none where the end is NaN."""

    def __init__(self, axes: Any, num_bars: int, colour: str, label: str | None = None) -> None:
        self._left = np.arange(num_bars) - 0.38
        values, edges = self._steps(np.zeros(num_bars))
        self.artist = axes.stairs(values, edges, fill=True, color=colour, label=label)

    def show(self, ends: npt.NDArray[Any], base: npt.NDArray[Any] | float = 0.0) -> None:
        """ends: (N,); base: (N,) or one for all."""
        values, edges = self._steps(ends)
        baseline, _ = self._steps(np.broadcast_to(base, ends.shape))
        self.artist.set_data(values, edges, baseline)

    def _steps(self, heights: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """A step curve with gaps between the bars."""
        values = np.full(2 * len(heights) - 1, np.nan)
        values[::2] = heights
        return values, np.column_stack([self._left, self._left + 0.76]).ravel()


class History:
    """The requests running and waiting over time, as a curve; a snapshot is (seconds, running, waiting)."""

    MOST = 400
    """Pictures that it remembers."""

    def __init__(self, axes: Any) -> None:
        self._axes = plain(axes)
        self._axes.set_xticks([])
        self._span = self._axes.set_title("", loc="left", fontsize=10, color=INK, pad=5)
        self._curves = [
            self._axes.fill_between([], [], [], color=colour, linewidth=0) for colour in (RUNNING, WAITING)
        ]
        self._past: list[tuple[float, float, float]] = []
        self.moving = [*self._curves, self._span]

    def update(self, snapshot: tuple[float, float, float]) -> None:
        """Adds an instant; one before the last is of another episode."""
        if self._past and snapshot[0] < self._past[-1][0]:
            self._past.clear()
        self._past.append(snapshot)
        del self._past[: -self.MOST]
        time_s, running, waiting = np.array(self._past, float).T
        total = running + waiting
        self._axes.set_xlim(time_s[0], max(time_s[-1], time_s[0] + 1e-3))
        self._axes.set_ylim(0, round_up(float(total.max())))
        self._span.set_text(f"requests, {time_s[0]:.2f} s to {time_s[-1]:.2f} s")
        for curve, low, high in zip(
            self._curves, (np.zeros_like(running), running), (running, total), strict=True
        ):
            curve.set_data(time_s, low, high)

    def limits(self) -> tuple[float, ...]:
        """Of the axis of requests."""
        return tuple(self._axes.get_ylim())


def plain(axes: Any) -> Any:
    """The axes, without what distracts."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GONE)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.grid(axis="y", color=LINES, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def legend_above(axes: Any, handles: Sequence[Any]) -> None:
    """In one line at the upper right."""
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=len(handles), frameon=False,
        fontsize=9, labelcolor=INK, borderaxespad=0.2, handlelength=1.0, columnspacing=1.0, handletextpad=0.5,
    )  # fmt: skip


def round_up(most: float) -> float:
    """The end of an axis for whole numbers: 4 times 1, 2 or 5 times a power of ten."""
    for exponent in range(12):
        for mantissa in (1, 2, 5):
            if most <= 4 * mantissa * 10**exponent:
                return float(4 * mantissa * 10**exponent)
    return most


def _canvas() -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _window(title: str) -> Any:
    import matplotlib.pyplot as plt

    reason = "there is no display"
    if _has_display():
        try:
            figure = plt.figure(title, figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
        except ImportError as error:
            reason = str(error)
        else:
            if figure.canvas.required_interactive_framework is not None:
                plt.show(block=False)
                return figure
            plt.close(figure)
            reason = f"its backend {plt.get_backend()} has none"
    raise InputError(
        f"render_mode = human: matplotlib cannot open a window here ({reason}); use render_mode = rgb_array"
    )


def _has_display() -> bool:
    if os.environ.get("MPLBACKEND", "").lower() == "agg":
        return False
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
