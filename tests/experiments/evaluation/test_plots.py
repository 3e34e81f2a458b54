"""The figures show what they say, and each policy looks the same in all of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from servegym.envs.metrics import ttft_s
from servegym.experiments.evaluation.plots import (
    PLOTS,
    bars,
    distribution,
    draw_plots,
    load_panels,
    looks_of,
    replica_load,
    requests_in_system,
)
from tests.experiments.toy_evaluation import results, toy_evaluation


def test_all_figures_are_written_with_captions(tmp_path: Path) -> None:
    captions = draw_plots(toy_evaluation(slow=2.0, fast=1.0), ["fast"], 2, tmp_path)
    assert sorted(captions) == sorted(PLOTS) == sorted(path.name for path in tmp_path.iterdir())
    for name in PLOTS:
        height, width, _ = imread(tmp_path / name).shape
        assert width == 1440
        assert height >= 250
    assert "seed 0" in captions["replica_load.png"]


def test_requests_in_system_by_hand() -> None:
    """Request 4 is cancelled at 2 s; 5 was lost and 6 never arrived."""
    nan = np.nan
    run = replace(
        results(0, 1.0),
        arrival_s=np.array([0.0, 1.0, 1.0, 2.0, 1.0, 1.0, nan]),
        finish_s=np.array([3.0, 1.5, 4.0, 5.0, nan, nan, nan]),
        cancelled_s=np.array([nan, nan, nan, nan, 2.0, nan, nan]),
        replica=np.array([0, 0, 1, 0, 1, 1, -1]),
        outcome=np.array([0, 0, 0, 0, 1, 2, 2]),
    )
    load = requests_in_system(run, 3, np.array([0.0, 1.0, 1.5, 2.5, 3.0, 5.0]))
    np.testing.assert_array_equal(load, [[1, 2, 1, 2, 1, 0], [0, 2, 2, 1, 1, 0], [0, 0, 0, 0, 0, 0]])


def test_looks_differ_and_learned_policies_stand_out() -> None:
    names = [f"policy_{number}" for number in range(12)]
    looks = looks_of(names, ["policy_5"])
    assert len({(look["color"], look["linestyle"]) for look in looks.values()}) == len(names)
    assert looks["policy_5"]["linewidth"] > max(
        looks[name]["linewidth"] for name in names if name != "policy_5"
    )
    assert len({look["color"] for look in list(looks_of(names[:8], []).values())}) == 8


def test_distribution_is_that_of_all_requests() -> None:
    evaluation = toy_evaluation(slow=2.0, fast=1.0)
    figure = distribution(evaluation, looks_of(evaluation.policies, []), ttft_s, "time to first token")
    whole, tail = figure.axes
    assert [line.get_label() for line in whole.lines] == ["slow", "fast"]
    times_s, share = whole.lines[1].get_data()
    pooled = np.concatenate([ttft_s(run) for run in evaluation.results["fast"]])
    half = np.interp(0.5, share, times_s)
    assert np.mean(pooled <= half) == 0.5
    assert len(times_s) == len(pooled)
    assert whole.get_xlabel() == tail.get_xlabel() == "time to first token (s)"
    assert whole.get_xscale() == "log"


def test_bars_are_the_estimates_in_milliseconds() -> None:
    evaluation = toy_evaluation(slow=2.0, fast=1.0)
    looks = looks_of(evaluation.policies, [])
    left, right = bars(evaluation, looks).axes
    for axes, metric in ((left, "mean_ttft_s"), (right, "p99_ttft_s")):
        expected = [1e3 * evaluation.estimates[policy][metric].iqm for policy in ("slow", "fast")]
        np.testing.assert_allclose([bar.get_width() for bar in axes.patches], expected)
        assert [bar.get_facecolor()[:3] for bar in axes.patches] == [
            to_rgb(looks[policy]["color"]) for policy in ("slow", "fast")
        ]
        assert axes.get_xlabel().endswith("(ms)")


def test_load_is_drawn_on_one_scale_for_the_policies_that_matter() -> None:
    evaluation = toy_evaluation(base=3.0, worst=5.0, learned=2.0, good=1.0, fair=1.5)
    panels = load_panels(evaluation, ["learned"])
    assert panels == ["base", "learned", "good", "fair"]
    figure = replica_load(evaluation, panels, 2)
    images = [axes.images[0] for axes in figure.axes if axes.get_ylabel() == "replica"]
    assert len(images) == 4
    assert len({image.get_clim() for image in images}) == 1
    assert images[0].get_array().shape[0] == 2
