from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servegym.experiments.evaluation.statistics import estimate
from servegym.experiments.reporting.gather import gather
from servegym.experiments.reporting.load_curves import knee, load_section
from servegym.experiments.reporting.section import Choice
from servegym.experiments.reporting.simulations import SHARES, Simulated, simulated, simulation_section
from servegym.experiments.reporting.table import Table
from tests.experiments.reporting.folders import the_runs, write_simulation


def _groups(folder: Path) -> list[Simulated]:
    return simulated(gather(the_runs(folder))[1]["simulate"])


def test_seeds_share_a_row_with_their_estimate_and_distribution(tmp_path: Path) -> None:
    for seed in range(5):
        write_simulation(tmp_path / f"a{seed}", seed=seed)
        write_simulation(tmp_path / f"b{seed}", seed=seed, router="sal", slowness=2.0)
    first, second = _groups(tmp_path)
    assert (first.policy, second.policy) == ("jsq", "sal")
    assert first.setting == second.setting == "made_up"
    assert first.rate_rps == pytest.approx(10)
    means = np.arange(1, 101).mean() * 1e-3 * (1 + 0.01 * np.arange(5))
    assert first.estimate("mean_ttft_s") == pytest.approx(estimate(means))
    pooled = np.repeat(np.arange(1, 101) * 1e-3, 5)
    np.testing.assert_allclose(first.quantiles["ttft_s"], np.quantile(pooled, SHARES))
    np.testing.assert_allclose(second.quantiles["ttft_s"], 2 * first.quantiles["ttft_s"])
    assert (first.quantiles["tpot_s"] == 0.02).all()  # not that of the request without a second token
    section = simulation_section([first, second])
    assert section is not None
    table = section.parts[0]
    assert isinstance(table, Table)
    heading = [name for name, _ in table.columns].index("mean TTFT")
    assert table.rows[0][heading].number == pytest.approx(1e3 * estimate(means).iqm)
    assert "5" in table.rows[0][3].text and "0, 1, 2, 3, 4" in table.rows[0][3].detail


def test_settings_and_policies_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    write_simulation(tmp_path / "a", rate_rps=10)
    write_simulation(tmp_path / "b", rate_rps=20)
    write_simulation(tmp_path / "c", router="x")
    write_simulation(tmp_path / "d", scheduler={"name": "ltr"})
    write_simulation(tmp_path / "e", scenario="other")
    found = {(each.setting, each.policy) for each in _groups(tmp_path)}
    assert found == {
        ("made_up, rate_rps=10", "jsq"),
        ("made_up, rate_rps=20", "jsq"),
        ("made_up, rate_rps=10", "x"),
        ("made_up, rate_rps=10", "jsq+ltr"),
        ("other", "jsq"),
    }


def test_requests_of_elastic_fleets_are_measured_from_instants(tmp_path: Path) -> None:
    folder = write_simulation(tmp_path / "a")
    columns = {
        "arrival_s": [0.0, 1.0, 2.0],
        "first_token_s": [0.5, 1.5, None],
        "finish_s": [2.5, 1.5, None],
        "output_tokens": [5, 1, 7],
    }
    pq.write_table(pa.table(columns), folder / "requests.parquet")
    (found,) = _groups(tmp_path)
    assert found.quantiles["latency_s"][[0, -1]] == pytest.approx([0.5, 2.5], abs=1e-3)
    assert (found.quantiles["ttft_s"] == 0.5).all() and (found.quantiles["tpot_s"] == 0.5).all()


def test_a_curve_has_the_policies_that_were_simulated_at_several_rates(tmp_path: Path) -> None:
    slowness = {10: 1.0, 20: 1.1, 30: 1.2, 40: 9.0}
    for rate, slow in slowness.items():
        for seed in range(2):
            write_simulation(tmp_path / f"a{rate}{seed}", rate_rps=rate, slowness=slow, seed=seed)
    write_simulation(tmp_path / "once", router="sal", rate_rps=10)
    section = load_section(_groups(tmp_path))
    assert section is not None
    choice, knees = section.parts
    assert isinstance(choice, Choice) and isinstance(knees, Table)
    curve, mark = choice.figures["mean TTFT"].series
    np.testing.assert_allclose(curve.places, [10, 20, 30, 40])
    np.testing.assert_allclose(curve.y, 50.5 * 1.005 * np.array(list(slowness.values())))
    assert curve.low is not None and (curve.low < curve.y).all()
    assert mark.places == pytest.approx([30]) and mark.like == "jsq"
    assert len(choice.figures["mean latency"].series) == 1  # it is the same at all rates: no knee
    assert {row[1].text: row[3].number for row in knees.rows}["mean TTFT"] == pytest.approx(30)


def test_no_curve_of_one_rate(tmp_path: Path) -> None:
    write_simulation(tmp_path / "a")
    assert load_section(_groups(tmp_path)) is None
    assert load_section([]) is None and simulation_section([]) is None


def test_the_knee_of_a_hyperbola_is_where_its_slope_is_the_chords() -> None:
    """1 / (1 - x) on [0, 0.99] has the slope of its chord, 100, at x = 0.9: an M/M/1 queue."""
    load = np.linspace(0, 0.99, 100)
    assert load[knee(load, 1 / (1 - load))] == pytest.approx(0.9)


@pytest.mark.parametrize(
    "values", [[1, 2, 3, 4], [1, 3, 3.5, 4], [4, 3, 2, 1], [2, 2, 2, 2], [1, 1, np.nan, 9]], ids=str
)
def test_curves_without_a_knee(values: list[float]) -> None:
    assert knee(np.arange(4.0), np.array(values, float)) is None


def test_chance_dips_are_no_knees() -> None:
    values = np.array([1.0, 1.2, 0.2, 1.4, 1.5, 9.0])
    assert knee(np.arange(6.0), values) == 4
