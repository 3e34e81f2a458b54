"""The figures of an evaluation: distributions, load of each replica over time, means with intervals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from servegym.envs.metrics import Seconds, latency_s, ttft_s
from servegym.envs.sim.llm.simulate import OUTCOMES, Results
from servegym.experiments.evaluation.comparison import Evaluation
from servegym.experiments.evaluation.tables import UNITS

# Okabe and Ito, "Color universal design" (2008), with grey for yellow, which is faint on white.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#8C8C8C")
STYLES = ("-", "--", "-.", ":")
STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "font.size": 10,
    "savefig.dpi": 150,
}
PLOTS = ("ttft_cdf.png", "latency_cdf.png", "ttft_bars.png", "replica_load.png")
"""The files written."""
MOST_LOAD_PANELS = 4
LOAD_STEPS = 480

Looks = dict[str, dict[str, Any]]
"""Of each policy the keywords of a line."""
Measure = Callable[[Results], Seconds]


def draw_plots(evaluation: Evaluation, learned: list[str], num_replicas: int, folder: Path) -> dict[str, str]:
    """Writes the figures as PNG to `folder`: name of each file, and a sentence that says what it shows."""
    looks = looks_of(evaluation.policies, learned)
    shown = load_panels(evaluation, learned)
    num_seeds = len(evaluation.seeds)
    pooled = f"all requests of {num_seeds} seeds"
    captions = {
        "ttft_cdf.png": f"Time to first token, {pooled}: left, the share of requests that waited no longer, "
        "right, the share that waited longer; the dotted line marks P99.",
        "latency_cdf.png": f"End-to-end latency, {pooled}, drawn in the same way.",
        "ttft_bars.png": f"Mean and P99 time to first token: interquartile mean over {num_seeds} seeds, with "
        "its 95 % interval.",
        "replica_load.png": f"Requests in the system of each replica over time, seed {evaluation.seeds[0]}: "
        "the more alike the rows, the more evenly requests are spread.",
    }
    with matplotlib.rc_context(STYLE):
        distribution(evaluation, looks, ttft_s, "time to first token").savefig(folder / "ttft_cdf.png")
        distribution(evaluation, looks, latency_s, "end-to-end latency").savefig(folder / "latency_cdf.png")
        bars(evaluation, looks).savefig(folder / "ttft_bars.png")
        replica_load(evaluation, shown, num_replicas).savefig(folder / "replica_load.png")
    return captions


def looks_of(policies: list[str], learned: list[str]) -> Looks:
    """Colour and line of each policy, the same in every figure; learned ones come first and are thicker."""
    order = sorted(policies, key=lambda policy: policy not in learned)
    return {
        policy: {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": STYLES[(index + index // len(COLOURS)) % len(STYLES)]
            if policy not in learned
            else "-",
            "linewidth": 2.4 if policy in learned else 1.4,
            "zorder": 3 if policy in learned else 2,
        }
        for index, policy in enumerate(order)
    }


def load_panels(evaluation: Evaluation, learned: list[str]) -> list[str]:
    """The few policies whose load is drawn: the baseline, the learned ones, then those of least mean TTFT."""
    by_ttft = sorted(evaluation.policies, key=lambda policy: evaluation.estimates[policy]["mean_ttft_s"].iqm)
    order = dict.fromkeys([evaluation.baseline, *learned, *by_ttft])
    return list(order)[:MOST_LOAD_PANELS]


def requests_in_system(results: Results, num_replicas: int, times_s: Seconds) -> npt.NDArray[np.int64]:
    """Requests in the system by the replica they were sent to last, (num_replicas, len(times_s)).

    From their arrival until they finish or are cancelled. Those that were lost leave at a time that is not
    known, and are left out.
    """
    counted = results.outcome != OUTCOMES.index("lost")
    left_s = np.fmax(results.finish_s, results.cancelled_s)
    load = np.empty((num_replicas, len(times_s)), np.int64)
    for replica in range(num_replicas):
        here = counted & (results.replica == replica)
        arrived = np.searchsorted(np.sort(results.arrival_s[here]), times_s, side="right")
        finished = np.searchsorted(np.sort(left_s[here]), times_s, side="right")
        load[replica] = arrived - finished
    return load


def distribution(evaluation: Evaluation, looks: Looks, measure: Measure, what: str) -> Figure:
    """The distribution of a time per request, for each policy, and its tail."""
    figure = Figure(figsize=(9.6, 3.9))
    whole, tail = figure.subplots(1, 2)
    for policy, results in evaluation.results.items():
        times_s = np.sort(np.concatenate([measure(seed)[seed.finished] for seed in results]))
        slower = 1 - np.arange(1, len(times_s) + 1) / len(times_s)
        whole.plot(times_s, 1 - slower, label=policy, **looks[policy])
        tail.plot(times_s[:-1], slower[:-1], **looks[policy])
    whole.set(xscale="log", ylim=(0, 1), ylabel="share of requests", title="At most this long")
    tail.set(xscale="log", yscale="log", ylim=(1e-4, 1), ylabel="share of requests", title="Longer than this")
    tail.axhline(0.01, color="#555555", linewidth=0.9, linestyle=":")
    tail.text(0.99, 0.011, "P99", transform=tail.get_yaxis_transform(), ha="right", color="#555555")
    whole.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    tail.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    for axes in (whole, tail):
        axes.set_xlabel(f"{what} (s)")
        _plain_seconds(axes)
    figure.legend(loc="outside right center")
    return figure


def bars(evaluation: Evaluation, looks: Looks) -> Figure:
    """Mean and P99 TTFT of each policy, with intervals."""
    policies = evaluation.policies
    figure = Figure(figsize=(9.6, 1.3 + 0.34 * len(policies)))
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("mean_ttft_s", "p99_ttft_s"), strict=True):
        unit = UNITS[metric]
        found = np.array([evaluation.estimates[policy][metric] for policy in policies]) * unit.factor
        axes.barh(
            policies,
            found[:, 0],
            xerr=[found[:, 0] - found[:, 1], found[:, 2] - found[:, 0]],
            color=[looks[policy]["color"] for policy in policies],
            height=0.66,
            error_kw={"elinewidth": 1.4, "capsize": 3, "ecolor": "#333333"},
        )
        axes.set(xlabel=f"{unit.heading} ({unit.unit})")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    return figure


def replica_load(evaluation: Evaluation, policies: list[str], num_replicas: int) -> Figure:
    """Requests in the system, replica by time, one panel per policy on one scale of shades."""
    first = {policy: evaluation.results[policy][0] for policy in policies}
    start_s = min(np.nanmin(results.arrival_s) for results in first.values())
    times_s = np.linspace(start_s, max(_end_s(results) for results in first.values()), LOAD_STEPS)
    load = {policy: requests_in_system(results, num_replicas, times_s) for policy, results in first.items()}
    figure = Figure(figsize=(9.6, 0.8 + len(policies) * 1.5))
    rows = figure.subplots(len(policies), 1, sharex=True, squeeze=False)[:, 0]
    most = max(int(each.max()) for each in load.values())
    for axes, policy in zip(rows, policies, strict=True):
        image = axes.imshow(
            load[policy],
            aspect="auto",
            interpolation="nearest",
            cmap="cividis",
            vmin=0,
            vmax=most,
            extent=(0, times_s[-1] - start_s, num_replicas - 0.5, -0.5),
        )
        axes.set(ylabel="replica", title=policy)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axes.grid(visible=False)
    rows[-1].set_xlabel("time since the first arrival (s)")
    figure.colorbar(image, ax=list(rows), label="requests in the system", aspect=30, pad=0.01)
    return figure


def _end_s(results: Results) -> float:
    return float(np.fmax.reduce(np.fmax(results.finish_s, results.cancelled_s)))


def _plain_seconds(axes: Axes) -> None:
    """Writes the powers of ten on a logarithmic axis of seconds as plain numbers."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
