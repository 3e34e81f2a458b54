"""The picture of an engine: every visible request with its tokens, and what the next batch may still take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from servegym.envs.sim.llm import decision_view as view
from servegym.envs.sim.llm.decisions import NUM_ROWS, SHARES, VISIBLE
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.state import NOBODY
from servegym.envs.viewer import (
    GONE,
    INK,
    LINES,
    RUNNING,
    WAITING,
    Bars,
    History,
    Part,
    legend_above,
    plain,
)

PREFILLING, DECODING, GENERATED = "#CC79A7", RUNNING, "#009E73"
NOT_COMPUTED = "#ecd0df"
CLAIMED = "#8fc1e0"

_PLACES = np.concatenate([np.arange(VISIBLE + 1, NUM_ROWS + 1), np.arange(VISIBLE - 1, -1, -1)])
"""Of each row, from left to right: running requests, last admitted last, a gap, the queue from its head."""

_COLUMN = {name: column for column, (name, _) in enumerate(view.ENGINE_COLUMNS)}


@dataclass(frozen=True)
class EngineSnapshot:
    """An engine at a decision.

    engine: (ENGINE_FEATURES,) and rows: (NUM_ROWS, ROW_FEATURES) as in the observation; settings: its limits,
    None where no engine is shown. chosen: the row with the request that the last decision was about, or -1.
    title: over the picture.
    """

    engine: np.ndarray
    rows: np.ndarray
    settings: Engine | None
    chosen: int
    title: str

    def amount(self, name: str) -> float:
        """One of ENGINE_COLUMNS."""
        return float(self.engine[_COLUMN[name]])


_NO_ENGINE = EngineSnapshot(
    np.zeros(view.ENGINE_FEATURES), np.zeros((NUM_ROWS, view.ROW_FEATURES)), None, NOBODY, "no engine"
)


class EnginePart:
    """A bar for every visible request, its prompt and what it generated, and bars of what is claimed.

    The pale part of a prefilling one is not computed yet.
    """

    def __init__(self, requests: Any, limits: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        self._requests = plain(requests)
        requests.set_xlim(-1, NUM_ROWS + 1)
        self._title = requests.set_title("", loc="left", fontsize=10, color=INK, pad=5)
        requests.set_xticks([(VISIBLE - 1) / 2, VISIBLE + (VISIBLE + 1) / 2])
        requests.set_xticklabels(["running, last admitted last", "waiting, head of the queue first"])
        requests.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
        requests.yaxis.set_major_formatter("{x:,.0f}")
        requests.axvline(VISIBLE, color=GONE, linewidth=0.8)
        self._bars = {
            name: Bars(requests, NUM_ROWS + 1, colour, label)
            for name, colour, label in (
                ("left", NOT_COMPUTED, None),
                ("waiting", WAITING, "waiting"),
                ("prefilling", PREFILLING, "prefilling"),
                ("decoding", DECODING, "decoding"),
                ("generated", GENERATED, "generated"),
            )
        }
        named = ("waiting", "prefilling", "decoding", "generated")
        legend_above(requests, [self._bars[name].artist for name in named])
        (self._chosen,) = requests.plot(
            [], [], marker="v", color=INK, markersize=7, linestyle="", clip_on=False
        )
        self._meters = [
            _Meter(limits, height, name) for height, name in enumerate(("seats", "KV blocks", "tokens"))
        ]
        _lay_out_meters(limits, self._meters)
        self.moving = [
            self._title,
            *(bars.artist for bars in self._bars.values()),
            self._chosen,
            *(artist for meter in self._meters for artist in meter.artists),
        ]
        self._top = 0.0

    def update(self, snapshot: EngineSnapshot | None) -> None:
        """Shows another instant; None: no engine."""
        if snapshot is None:
            snapshot = _NO_ENGINE
        rows = snapshot.rows.astype(np.float64)
        prompt, known, computed = (
            rows[:, column] for column in (view.PROMPT_TOKENS, view.KNOWN_TOKENS, view.COMPUTED_TOKENS)
        )
        self._top = max(self._top, 500.0 * math.ceil(1.06 * known.max(initial=1.0) / 500))
        self._requests.set_ylim(0, self._top)
        prefilling = rows[:, view.IS_PREFILLING] > 0
        for name, base, ends, shown in (
            ("left", 0.0, prompt, prefilling),
            ("waiting", 0.0, prompt, rows[:, view.IS_WAITING] > 0),
            ("prefilling", 0.0, np.minimum(computed, prompt), prefilling),
            ("decoding", 0.0, prompt, rows[:, view.IS_DECODING] > 0),
            ("generated", prompt, known, known > prompt),
        ):
            self._bars[name].show(_placed(np.where(shown, ends, np.nan)), _placed(base + np.zeros(NUM_ROWS)))
        chosen = [] if snapshot.chosen == NOBODY else [snapshot.chosen]
        self._chosen.set_data(_PLACES[chosen], known[chosen] + 0.035 * self._top)
        self._title.set_text(snapshot.title)
        self._update_meters(snapshot)

    def limits(self) -> tuple[float, ...]:
        """Of the axis of tokens."""
        return (self._top,)

    def _update_meters(self, snapshot: EngineSnapshot) -> None:
        seats, blocks, tokens = self._meters
        settings = snapshot.settings
        if settings is None:
            for meter in self._meters:
                meter.show(0.0, 0.0, 0.0)
            return
        seats.show(snapshot.amount("running"), 0.0, settings.max_num_seqs)
        used = snapshot.amount("kv_used_blocks")
        claimed = max(settings.num_kv_blocks - used - snapshot.amount("unclaimed_blocks"), 0.0)
        blocks.show(used, claimed, settings.num_kv_blocks)
        budget = settings.max_num_batched_tokens
        tokens.show(0.0, budget - snapshot.amount("unclaimed_tokens"), budget)


class _Meter:
    """A line filled from the left with what is in use and, paler, what is claimed beside it."""

    def __init__(self, axes: Any, height: float, name: str) -> None:
        self.name, self.height = name, height
        axes.barh([height], [1.0], height=0.55, color=LINES)
        (self._used,) = axes.barh([height], [0.0], height=0.55, color=RUNNING)
        (self._claimed,) = axes.barh([height], [0.0], height=0.55, color=CLAIMED)
        self._text = axes.text(1.02, height, "", fontsize=9, color=INK, va="center")
        self.artists = [self._used, self._claimed, self._text]

    def show(self, used: float, claimed: float, of: float) -> None:
        """Three amounts of one unit; `of` 0: there is no such thing now."""
        self._used.set_width(used / max(of, 1.0))
        self._claimed.set_x(used / max(of, 1.0))
        self._claimed.set_width(claimed / max(of, 1.0))
        self._text.set_text(f"{used + claimed:,.0f} of {of:,.0f}" if of > 0 else "")


def _lay_out_meters(axes: Any, meters: Sequence[_Meter]) -> None:
    plain(axes)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set(xlim=(0, 1), ylim=(-0.5, len(meters) - 0.5), xticks=[])
    axes.set_title("in use, and claimed for the next batch", loc="left", fontsize=10, color=INK, pad=5)
    axes.set_yticks([meter.height for meter in meters], [meter.name for meter in meters])


def _placed(rows: np.ndarray) -> np.ndarray:
    """Rows (NUM_ROWS,) at their places from left to right, (NUM_ROWS + 1,)."""
    bars = np.full(NUM_ROWS + 1, np.nan)
    bars[_PLACES] = rows
    return bars


def row_of(request_id: int, row_ids: np.ndarray) -> int:
    """The row with a request, or NOBODY."""
    rows = np.flatnonzero(row_ids == request_id)
    return int(rows[0]) if request_id != NOBODY and len(rows) else NOBODY


def words(choice: int) -> str:
    """One discrete choice in words."""
    if choice < VISIBLE:
        return "admit"
    if choice < NUM_ROWS:
        return "preempt"
    return f"run, prefill {SHARES[choice - NUM_ROWS]:.0%}"


def lay_out(figure: Any) -> Sequence[Part]:
    """The engine, and its past below: parts that take an EngineSnapshot and what `History` takes."""
    grid = figure.add_gridspec(
        3, 1, height_ratios=(3.4, 1.1, 1.2), left=0.075, right=0.975, top=0.79, bottom=0.035, hspace=0.5
    )
    requests, past = figure.add_subplot(grid[0]), figure.add_subplot(grid[2])
    limits = figure.add_subplot(grid[1].subgridspec(1, 2, width_ratios=(0.85, 0.15), wspace=0)[0])
    return EnginePart(requests, limits), History(past)
