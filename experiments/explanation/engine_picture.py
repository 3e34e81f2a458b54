"""A busy minute of an engine as a picture: its queue over time, and from which places it admitted."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from servegym.envs.sim.llm import decision_view as view
from servegym.envs.sim.llm.decisions import VISIBLE
from servegym.experiments.evaluation.plots import COLOURS, STYLE
from servegym.experiments.explanation.decisions import Decisions

RUNNING, WAITING = ([name for name, _ in view.ENGINE_COLUMNS].index(each) for each in ("running", "waiting"))


def draw_engine(minute: Decisions, title: str, path: Path) -> None:
    """Writes the decisions, which are all of one workload, as a PNG."""
    times_s = minute.time_s - minute.time_s[0]
    engine = minute.observation["engine"]
    admitted = np.flatnonzero(minute.actions < VISIBLE)
    rows = minute.observation["requests"][admitted, minute.actions[admitted]]
    work = rows[:, view.PREDICTED_OUTPUT_TOKENS]
    what = "predicted output, tokens"
    if not work.any():
        work, what = rows[:, view.PROMPT_TOKENS], "prompt, tokens"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.0, 6.4))
        counts, places = figure.subplots(2, 1, sharex=True, height_ratios=[1.0, 1.6])
        counts.step(times_s, engine[:, RUNNING], where="post", color=COLOURS[1], label="running")
        counts.step(times_s, engine[:, WAITING], where="post", color=COLOURS[0], label="waiting")
        counts.set(ylabel="requests", ylim=(0, None), title=title)
        counts.legend(loc="upper left", ncols=2)
        marks = places.scatter(
            times_s[admitted],
            minute.actions[admitted],
            c=np.log10(np.maximum(work, 1.0)),
            cmap="cividis",
            s=26,
            edgecolors="black",
            linewidths=0.3,
        )
        places.set(ylabel="place in the queue of who is admitted", xlabel="time (s)", ylim=(VISIBLE, -1))
        bar = figure.colorbar(marks, ax=places, label=what, pad=0.01)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{10**value:,.0f}")
        figure.savefig(path)
