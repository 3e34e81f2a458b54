from pathlib import Path

import numpy as np
import pytest

from servegym.experiments.reporting.gather import gather
from servegym.experiments.reporting.section import Choice
from servegym.experiments.reporting.training import mean_curve, training_section
from tests.experiments.reporting.folders import the_runs, write_training


def test_the_mean_of_straight_lines_is_a_straight_line_where_both_are() -> None:
    steps = [np.array([0.0, 10, 20]), np.array([5.0, 15, 25])]
    places, mean, low, high = mean_curve(steps, [steps[0] * 1, steps[1] * 3])
    np.testing.assert_allclose(places, [5, 10, 15, 20])
    np.testing.assert_allclose(mean, 2 * places)
    np.testing.assert_allclose(low, places)  # of two curves the bootstrap draws one twice often enough
    np.testing.assert_allclose(high, 3 * places)


def test_a_band_is_as_wide_as_the_seeds_differ() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(50.0)
    curves = [np.full(50, value) for value in rng.normal(0, 1, 20)]
    _, mean, low, high = mean_curve([steps] * 20, curves)
    standard_error = np.std([each[0] for each in curves]) / np.sqrt(20)
    assert low is not None and high is not None
    np.testing.assert_allclose((high - low) / standard_error, 2 * 1.96, rtol=0.1)
    assert ((low < mean) & (mean < high)).all()


def test_a_single_seed_has_no_band() -> None:
    steps = np.array([1.0, 2.0])
    places, mean, low, high = mean_curve([steps], [steps])
    np.testing.assert_array_equal(places, mean)
    assert low is None and high is None


def test_seeds_of_one_configuration_are_one_curve_and_others_their_own(tmp_path: Path) -> None:
    for seed in range(3):
        write_training(tmp_path / f"mlp{seed}", seed=seed, slope=seed)
    write_training(tmp_path / "gnn", network="gnn")
    section = training_section(gather(the_runs(tmp_path))[1]["train"])
    assert section is not None
    (choice,) = section.parts
    assert isinstance(choice, Choice)
    assert list(choice.figures) == ["mean return", "mean TTFT"]
    by_name = {each.name: each for each in choice.figures["mean return"].series}
    assert set(by_name) == {"ppo mlp (3 seeds)", "ppo gnn (1 seed)"}
    np.testing.assert_allclose(by_name["ppo mlp (3 seeds)"].y, [100, 200, 300])
    assert choice.figures["mean TTFT"].series[0].y == pytest.approx([500] * 3)  # milliseconds
    assert "too narrow" in section.words[0]


def test_a_run_without_two_rows_has_no_curve(tmp_path: Path) -> None:
    write_training(tmp_path / "a", steps=(100,))
    runs, found = gather(the_runs(tmp_path))
    assert [run.status for run in runs] == ["finished"]
    assert training_section(found["train"]) is None
