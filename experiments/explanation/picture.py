"""A busy minute of a routed workload as a picture: replicas as lanes over time, and where requests went."""

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from servegym.envs.sim.llm.view import AVAILABLE, PROMPT_TOKENS, QUEUED_PREFILL_TOKENS, RUNNING, WAITING
from servegym.experiments.evaluation.plots import STYLE
from servegym.experiments.explanation.decisions import Decisions

LENGTH_S = 60.0
"""What is shown of a workload."""

MARKS = 240
"""Decisions that are shown one by one; more could not be told apart."""

AS_WELL, DIFFERENT = "#FFFFFF", "#D55E00"
SMALLEST, LARGEST = 8.0, 150.0
"""Areas of marks, points squared."""


def busiest_minute(decisions: Decisions) -> npt.NDArray[np.int64]:
    """Indices of the decisions in the busiest LENGTH_S of the first workload, or in all of a shorter one.

    Busy is a window that begins with a decision by the requests there, on average over its decisions.
    """
    first = np.flatnonzero(decisions.workload == decisions.workload[0])
    times_s = decisions.time_s[first]
    ends = np.searchsorted(times_s, times_s + LENGTH_S)
    candidates = np.flatnonzero(times_s + LENGTH_S <= times_s[-1])
    if len(candidates) == 0:
        return first
    start = candidates[np.argmax(_mean_load(decisions.at(first), candidates, ends[candidates]))]
    return first[start : ends[start]]


def busiest_decisions(decisions: Decisions) -> npt.NDArray[np.int64]:
    """Indices of the MARKS decisions in a row with the most requests on the fleet, or of all there are."""
    count = min(MARKS, len(decisions.actions))
    starts = np.arange(len(decisions.actions) - count + 1)
    start = int(np.argmax(_mean_load(decisions, starts, starts + count)))
    return np.arange(start, start + count)


def draw(
    minute: Decisions, few: Decisions, against: str, differs: npt.NDArray[np.bool_], title: str, path: Path
) -> None:
    """Writes the PNG: the minute, and of it a `few` decisions one by one.

    against: a router, and at which of the few it would have chosen otherwise: bool (N,).
    """
    height = 0.3 * min(minute.legal.shape[1], 32)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.0, 4.2 + 2.5 * height))
        parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.9 + height, 2.3 + 1.5 * height])
        whole, close = parts[:, 0]
        queue, lanes = whole.subplots(2, 1, sharex=True, height_ratios=[0.9, 0.2 + height])
        start_s = float(minute.time_s[0])
        most = float(_load(minute).max())
        _draw_queue(queue, minute, start_s)
        mesh = _draw_lanes(lanes, minute, start_s, most)
        for axes in (queue, lanes):
            axes.axvspan(few.time_s[0] - start_s, few.time_s[-1] - start_s, fill=False, linewidth=1.4)
        whole.colorbar(mesh, ax=[queue, lanes], label="requests on the replica", aspect=30, pad=0.01)
        queue.set_title(title)
        zoom = close.subplots()
        mesh = _draw_lanes(zoom, few, start_s, most)
        close.colorbar(mesh, ax=zoom, label="requests on the replica", aspect=30, pad=0.01)
        _mark(zoom, few, start_s, against, differs)
        zoom.set_title(f"The {len(few.actions)} decisions in the frame")
        figure.savefig(path)


def _load(decisions: Decisions) -> npt.NDArray[np.float64]:
    """Requests on each replica, (N, R)."""
    replicas = decisions.observation["replicas"]
    load: npt.NDArray[np.float64] = replicas[:, :, [RUNNING, WAITING]].sum(axis=2, dtype=np.float64)
    return load


def _mean_load(
    decisions: Decisions, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    if "engine" in decisions.observation:
        load = decisions.observation["engine"][:, :2].sum(axis=1, dtype=np.float64)  # running and waiting
    else:
        load = _load(decisions).sum(axis=1)
    total = np.concatenate([[0.0], np.cumsum(load)])
    mean: npt.NDArray[np.float64] = (total[ends] - total[starts]) / (ends - starts)
    return mean


def _draw_queue(axes: Axes, decisions: Decisions, start_s: float) -> None:
    queued = decisions.observation["replicas"][:, :, QUEUED_PREFILL_TOKENS].sum(axis=1) / 1e3
    axes.fill_between(decisions.time_s - start_s, queued, step="post", color="#8C8C8C", linewidth=0)
    axes.set(ylabel="thousand\ntokens queued", ylim=(0, None))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))


def _draw_lanes(axes: Axes, decisions: Decisions, start_s: float, most: float) -> QuadMesh:
    load = _load(decisions)
    load[decisions.observation["replicas"][:, :, AVAILABLE] == 0] = np.nan
    times_s = decisions.time_s - start_s
    # A column lasts from one decision to the next, the last as long as they do on average.
    edges = np.append(times_s, times_s[-1] + (times_s[-1] - times_s[0] + 1e-3) / len(times_s))
    num_replicas = load.shape[1]
    lanes = np.arange(num_replicas + 1) - 0.5
    mesh = axes.pcolormesh(edges, lanes, load.T, cmap="cividis", vmin=0, vmax=most)
    axes.hlines(lanes[1:-1], edges[0], edges[-1], color="white", linewidth=1.0)
    axes.set(ylabel="replica", xlabel="time (s)", ylim=(num_replicas - 0.5, -0.5), facecolor="#d0d0d0")
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    axes.grid(visible=False)
    return mesh


def _mark(
    axes: Axes, decisions: Decisions, start_s: float, against: str, differs: npt.NDArray[np.bool_]
) -> None:
    prompts = decisions.observation["request"][:, PROMPT_TOKENS]
    areas = SMALLEST + (LARGEST - SMALLEST) * prompts / max(float(prompts.max()), 1.0)
    for which, colour, words in (
        (~differs, AS_WELL, f"sent here, as {against} would have done"),
        (differs, DIFFERENT, f"sent here, where {against} would have chosen another"),
    ):
        axes.scatter(
            decisions.time_s[which] - start_s,
            decisions.actions[which],
            s=areas[which],
            color=colour,
            edgecolors="black",
            linewidths=0.5,
            label=words,
            clip_on=False,
            zorder=3,
        )
    legend = axes.legend(
        loc="upper left",
        bbox_to_anchor=(0.0, -0.09),
        ncols=2,
        title="The larger a mark, the longer the prompt:",
        alignment="left",
    )
    for handle in legend.legend_handles:
        handle.set_sizes([60.0])  # type: ignore[union-attr]
