"""Pictures of a fleet: what every replica runs, what waits there, and how full its KV cache is."""

import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError

RENDER_MODES = ("human", "rgb_array")
RENDER_FPS = 10

WIDTH, HEIGHT, DPI = 960, 600, 100
HISTORY = 400
"""Pictures that the curve at the bottom remembers."""

ALMOST_FULL = 0.9
INK, FAINT, LINES = "#1f2933", "#7b8794", "#e4e7eb"
RUNNING, WAITING, KV, KV_ALMOST_FULL, GONE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#cbd2d9"

Floats = npt.NDArray[np.float64]
Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Snapshot:
    """R replicas at one instant.

    running, waiting: requests (R,); kv_share: share of the KV blocks in use (R,); available: bool (R,).
    chosen: the replica that got the last request, or -1; facts: what the head line says, (label, value) each.
    """

    time_s: float
    running: Floats
    waiting: Floats
    kv_share: Floats
    available: npt.NDArray[np.bool_]
    chosen: int
    facts: tuple[tuple[str, str], ...]


def usable_render_modes() -> list[str]:
    """The render modes that work on this machine: `human` needs a display."""
    return [mode for mode in RENDER_MODES if mode != "human" or _has_display()]


class Viewer:
    """Draws snapshots of one fleet, into RGB arrays or a window of matplotlib's.

    Raises InputError for an unknown mode, and for `human` where no window can be opened.
    """

    def __init__(self, render_mode: str, title: str, num_replicas: int) -> None:
        if render_mode not in RENDER_MODES:
            raise InputError(f"render_mode = {render_mode}: must be one of {', '.join(RENDER_MODES)}")
        self._human = render_mode == "human"
        self._figure = _window(title) if self._human else _canvas()
        self._left = np.arange(num_replicas) - 0.38
        self._history: list[tuple[float, float, float]] = []
        self._background: Any = None
        self._lay_out(title, num_replicas)

    def draw(self, snapshot: Snapshot) -> Frame | None:
        """uint8 (HEIGHT, WIDTH, 3), a new array; None where it goes to the window."""
        limits = self._limits()
        self._update(snapshot)
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

    def _lay_out(self, title: str, num_replicas: int) -> None:
        grid = self._figure.add_gridspec(
            3, 1, height_ratios=(3.2, 1.7, 1.3), left=0.075, right=0.975, top=0.79, bottom=0.035, hspace=0.5
        )
        self._requests, self._kv, self._past = (self._figure.add_subplot(cell) for cell in grid)
        for axes in (self._requests, self._kv, self._past):
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.spines["bottom"].set_color(GONE)
            axes.tick_params(colors=FAINT, labelsize=9, length=0)
            axes.grid(axis="y", color=LINES, linewidth=0.8)
            axes.set_axisbelow(True)
        self._figure.text(0.025, 0.955, title, fontsize=13, color=INK, weight="bold", va="center")
        self._facts: list[tuple[Any, Any]] = []
        for axes, name in ((self._requests, "requests"), (self._kv, "KV cache in use")):
            axes.set_xlim(-0.6, num_replicas - 0.4)
            axes.set_title(name, loc="left", fontsize=10, color=INK, pad=5)
            step = -(-num_replicas // 16)
            axes.set_xticks(np.arange(0, num_replicas, step))
        self._requests.set_xticklabels([])
        self._kv.set(ylim=(0, 1), yticks=(0, 0.5, 1), yticklabels=("0 %", "50 %", "100 %"))
        self._kv.set_xlabel("replica", fontsize=9, color=FAINT, labelpad=1)
        self._past.set_xticks([])
        self._span = self._past.set_title("", loc="left", fontsize=10, color=INK, pad=5)
        self._bars = {
            name: axes.stairs(*self._blocks(np.zeros(num_replicas)), fill=True, color=colour, label=label)
            for name, axes, colour, label in (
                ("gone", self._requests, LINES, None),
                ("running", self._requests, RUNNING, "running"),
                ("waiting", self._requests, WAITING, "waiting"),
                ("kv", self._kv, KV, "up to 90 %"),
                ("kv_almost_full", self._kv, KV_ALMOST_FULL, "above"),
            )
        }
        for axes, names in ((self._requests, ("running", "waiting")), (self._kv, ("kv", "kv_almost_full"))):
            axes.legend(
                handles=[self._bars[name] for name in names], loc="lower right", bbox_to_anchor=(1.0, 0.99),
                ncols=2, frameon=False, fontsize=9, labelcolor=INK, borderaxespad=0.2, handlelength=1.0,
            )  # fmt: skip
        (self._chosen,) = self._requests.plot(
            [], [], marker="v", color=INK, markersize=8, linestyle="", clip_on=False
        )
        self._curves = [
            self._past.fill_between([], [], [], color=colour, linewidth=0) for colour in (RUNNING, WAITING)
        ]
        self._moving = [*self._bars.values(), self._chosen, *self._curves, self._span]
        for artist in self._moving:
            artist.set_animated(not self._human)

    def _limits(self) -> tuple[float, ...]:
        return (*self._requests.get_ylim(), *self._past.get_ylim(), len(self._facts))

    def _update(self, snapshot: Snapshot) -> None:
        total = snapshot.running + snapshot.waiting
        top = _round_up(float(total.max(initial=0.0)))
        top = max(top, self._requests.get_ylim()[1]) if self._history else top
        self._requests.set_ylim(0, top)
        almost_full = snapshot.kv_share > ALMOST_FULL
        for name, heights, base in (
            ("gone", np.where(snapshot.available, np.nan, top), 0.0),
            ("running", snapshot.running, 0.0),
            ("waiting", total, snapshot.running),
            ("kv", np.where(almost_full, np.nan, snapshot.kv_share), 0.0),
            ("kv_almost_full", np.where(almost_full, snapshot.kv_share, np.nan), 0.0),
        ):
            values, edges = self._blocks(heights)
            baseline, _ = self._blocks(np.broadcast_to(base, heights.shape))
            self._bars[name].set_data(values, edges, baseline)
        chosen = snapshot.chosen >= 0
        self._chosen.set_data([snapshot.chosen] if chosen else [], [1.04 * top] if chosen else [])
        self._update_past(snapshot)
        self._update_facts(snapshot.facts)

    def _update_past(self, snapshot: Snapshot) -> None:
        if self._history and snapshot.time_s < self._history[-1][0]:
            self._history.clear()  # another episode
        self._history.append((snapshot.time_s, float(snapshot.running.sum()), float(snapshot.waiting.sum())))
        del self._history[:-HISTORY]
        time_s, running, waiting = np.array(self._history).T
        total = running + waiting
        self._past.set_xlim(time_s[0], max(time_s[-1], time_s[0] + 1e-3))
        self._past.set_ylim(0, _round_up(float(total.max())))
        self._span.set_text(f"requests in the fleet, {time_s[0]:.2f} s to {time_s[-1]:.2f} s")
        for curve, low, high in zip(
            self._curves, (np.zeros_like(running), running), (running, total), strict=True
        ):
            curve.set_data(time_s, low, high)

    def _update_facts(self, facts: tuple[tuple[str, str], ...]) -> None:
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

    def _blocks(self, heights: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Values and edges of a step curve that draws one bar per replica, with gaps between them."""
        values = np.full(2 * len(heights) - 1, np.nan)
        values[::2] = heights
        edges = np.column_stack([self._left, self._left + 0.76]).ravel()
        return values, edges


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


def _round_up(most: float) -> float:
    """The end of an axis for numbers of requests: 4 times 1, 2 or 5 times a power of ten."""
    for exponent in range(12):
        for mantissa in (1, 2, 5):
            if most <= 4 * mantissa * 10**exponent:
                return float(4 * mantissa * 10**exponent)
    return most
