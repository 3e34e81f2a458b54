from pathlib import Path

import numpy as np
import pytest

from servegym.experiments.evaluation.statistics import (
    estimate,
    performance_profile,
    performance_profile_band,
    suite_estimate,
)
from servegym.experiments.reporting.evaluations import evaluation_section
from servegym.experiments.reporting.figure import Figure
from servegym.experiments.reporting.gather import gather
from servegym.experiments.reporting.section import Choice
from servegym.experiments.reporting.suites import suite_section
from servegym.experiments.reporting.table import Table
from tests.experiments.reporting.folders import the_runs, write_evaluation, write_training

RESULTS = Path(__file__).resolve().parents[3] / "experiments/results/routing"

BASELINE, FIRST, SECOND = [2.0, 2.2, 2.4, 2.6], [1.0, 1.1, 1.3, 1.2], [1.5, 1.6, 1.7, 1.8]


def _parts(folder: Path) -> list[object]:
    runs, found = gather(the_runs(folder))
    section = evaluation_section(found["evaluate"], runs)
    assert section is not None
    return list(section.parts)


def _latency(table: object) -> dict[str, tuple[float | None, str]]:
    assert isinstance(table, Table)
    column = [name for name, _ in table.columns].index("mean latency")
    return {row[0].text: (row[column].number, row[column].style) for row in table.rows}


def test_training_seeds_of_one_configuration_are_one_policy(tmp_path: Path) -> None:
    """Each run was evaluated in its own folder on the same requests, by a name relative to another place."""
    for seed, values in enumerate((FIRST, SECOND)):
        run = write_training(tmp_path / f"runs/mlp{seed}", seed=seed)
        write_evaluation(run / "evaluation", {"round_robin": BASELINE, f"runs/mlp{seed}": values})
    table, profiles = _parts(tmp_path)
    found = _latency(table)
    assert set(found) == {"round_robin", "ppo mlp (2 training runs)"}
    both = suite_estimate(np.array([[FIRST, SECOND]]))
    assert found["ppo mlp (2 training runs)"] == (pytest.approx(both.iqm), "better")
    assert found["round_robin"] == (pytest.approx(estimate(np.array(BASELINE)).iqm), "")
    assert isinstance(profiles, Choice)
    figure = profiles.figures["mean latency"]
    by_name = {each.name: each for each in figure.series}
    scores = np.array([FIRST + SECOND]) / np.mean(BASELINE)
    levels = by_name["ppo mlp (2 training runs)"].places
    np.testing.assert_allclose(
        by_name["ppo mlp (2 training runs)"].y, [(scores <= level).mean() for level in levels]
    )


def test_evaluations_of_other_requests_stay_apart(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", {"round_robin": BASELINE, "jsq": FIRST})
    write_evaluation(tmp_path / "b", {"round_robin": [3.0, 3.1, 3.2, 3.3], "jsq": FIRST})
    first, second, _ = _parts(tmp_path)
    assert isinstance(first, Table) and isinstance(second, Table)
    assert (first.title, second.title) == ("made_up (1)", "made_up (2)")


def test_a_worse_and_an_undecided_policy_are_marked_so(tmp_path: Path) -> None:
    worse, level = [each * 2 for each in BASELINE], [2.1, 2.1, 2.3, 2.7]
    write_evaluation(tmp_path / "a", {"round_robin": BASELINE, "worse": worse, "level": level})
    found = _latency(_parts(tmp_path)[0])
    assert found["worse"][1] == "worse" and found["level"][1] == "undecided"


def test_profiles_of_a_suite_are_those_of_its_evaluation() -> None:
    """The committed profiles were computed when the suite was evaluated."""
    (run,) = the_runs(RESULTS)
    section = suite_section(gather([run])[1]["evaluate suite"])
    assert section is not None
    figure = next(part for part in section.parts if isinstance(part, Figure))
    rows = {row["policy"]: row for row in run.rows("profiles.csv")}
    assert figure.series[0].name == run.rows("summary.csv")[0]["policy"]
    for series in figure.series:
        for level, share in rows[series.name].items():
            if level != "policy" and series.places[0] <= float(level) <= series.places[-1]:
                at = np.searchsorted(series.places, float(level), side="right") - 1
                after = min(at + 1, len(series.y) - 1)
                assert series.y[at] - 1e-5 <= float(share) <= series.y[after] + 1e-5
        assert series.low is not None and series.high is not None
        assert (series.low <= series.y + 1e-9).all() and (series.y <= series.high + 1e-9).all()


def test_the_band_of_a_profile_covers_the_share_of_the_whole() -> None:
    """Of uniform scores the profile is its level: 95 % of samples of 40 hold it, at every level."""
    levels = np.array([0.25, 0.5, 0.75])
    rng = np.random.default_rng(0)
    held = np.zeros(3)
    for _ in range(100):
        low, high = performance_profile_band(rng.random((1, 1, 40)), levels)
        held += (low <= levels) & (levels <= high)
    assert (held >= 88).all()


def test_the_band_of_one_run_on_one_scenario_is_its_profile() -> None:
    scores, levels = np.array([[[0.5]]]), np.array([0.4, 0.6])
    low, high = performance_profile_band(scores, levels)
    np.testing.assert_array_equal([low, high], [performance_profile(scores, levels)] * 2)
