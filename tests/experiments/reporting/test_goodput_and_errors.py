"""What searches for a goodput and validations of cost models have answered, as bars, points and tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servegym.costmodels.kernels.schema import KernelTimings
from servegym.experiments.reporting.cost_models import cost_model_section
from servegym.experiments.reporting.figure import Figure
from servegym.experiments.reporting.gather import gather
from servegym.experiments.reporting.goodput import goodput_section
from servegym.experiments.reporting.section import Choice, Section
from servegym.experiments.reporting.table import Table
from servegym.experiments.validation.predictions import write_predictions
from tests.experiments.reporting.folders import the_runs, write_answer

NAN = float("nan")


def _searched(policy: Any, rate: float, scenario: str = "a", reason: str | None = None) -> dict[str, Any]:
    return {
        "scenario": scenario,
        "policy": policy,
        "limit": 0.01,
        "seeds": [0, 1],
        "goodput_rps": rate,
        "interval": [rate - 1, rate + 1],
        "reason": reason,
    }


def _goodputs(folder: Path) -> Section:
    found = gather(the_runs(folder))[1]
    section = goodput_section([*found["goodput"], *found["evaluate batching"]])
    assert section is not None
    return section


def test_policies_stand_side_by_side_on_their_scenarios(tmp_path: Path) -> None:
    write_answer(tmp_path / "1", "goodput.json", _searched({"name": "symphony"}, 10.0))
    write_answer(tmp_path / "2", "goodput.json", _searched("jsq", 5.0))
    write_answer(tmp_path / "3", "goodput.json", _searched("jsq", 7.0, "b"))
    write_answer(tmp_path / "4", "goodput.json", _searched("sal", NAN, reason="none low enough"))
    figure, table = _goodputs(tmp_path).parts
    assert isinstance(figure, Figure) and isinstance(table, Table)
    assert figure.title == "Goodput: at most 1 % bad requests"
    bars = {each.name: (each.x, each.y.tolist()) for each in figure.series}
    assert bars == {"symphony": (["a"], [10]), "jsq": (["a", "b"], [5, 7])}
    assert figure.series[0].low is not None and figure.series[0].low.tolist() == [9]
    assert [row[-1].text for row in table.rows if row[2].text == "sal"] == ["none low enough"]


def test_lines_and_evaluations_have_a_goodput_of_their_own(tmp_path: Path) -> None:
    line = {"goodput_rps": 3.0, "interval": [2.0, 4.0], "reason": None}
    unlimited = {"goodput_rps": None, "interval": [None, None], "reason": "kept at every rate tried"}
    elastic = {"scenario": "e", "policy": {"name": "loongserve"}, "seeds": [0]}
    write_answer(tmp_path / "1", "goodput.json", {**elastic, "lines": {"total": line, "input": unlimited}})
    policies = {"net": {"goodput_rps": {"iqm": 8.0, "low": 7.0, "high": 9.0}, "reason": None}}
    evaluated = {"scenario": "d", "seeds": [0, 1], "limit": 0.01, "policies": policies}
    write_answer(tmp_path / "2", "evaluation.json", evaluated)
    (tmp_path / "2/results.csv").write_text("policy,seed\nnet,0\n")
    *figures, table = _goodputs(tmp_path).parts
    titles = [each.title for each in figures if isinstance(each, Figure)]
    assert titles == ["Goodput: line total kept", "Goodput: at most 1 % bad requests"]
    assert isinstance(table, Table) and len(table.rows) == 3
    assert table.rows[1][3].number is None and table.rows[1][-1].text == "kept at every rate tried"


def _validated(folder: Path) -> Section:
    section = cost_model_section(gather(the_runs(folder))[1]["validate"])
    assert section is not None
    return section


def test_simulated_times_are_drawn_against_measured_ones(tmp_path: Path) -> None:
    point = {
        "group": "model vllm",
        "prompt_tokens": 10,
        "output_tokens": 20,
        "tensor_parallel": 1,
        "concurrency": 4,
        "measured_tpot_s": 0.01,
        "simulated_tpot_s": 0.012,
        "measured_ttft_s": 0.1,
        "simulated_ttft_s": 0.05,
    }
    medians = {
        f"{key}_median_{kind}": 0.2 for key in ("tpot", "ttft") for kind in ("error", "signed_error")
    } | {"count": 1}
    answer = {
        "what": "e2e",
        "device": "h100",
        "clock": "roofline",
        "points": [point],
        "groups": {"g": medians},
    }
    write_answer(tmp_path / "a", "validation.json", answer)
    tpot, ttft, table = _validated(tmp_path).parts
    assert isinstance(tpot, Figure) and isinstance(ttft, Figure) and isinstance(table, Table)
    points, diagonal = tpot.series
    assert (points.places[0], points.y[0]) == pytest.approx((10, 12))
    np.testing.assert_array_equal(diagonal.places, diagonal.y)
    assert points.words == ["10 in, 20 out, TP 1, 4 clients"]
    assert ttft.series[0].y == pytest.approx([50])


def test_kernels_have_errors_by_operator_and_a_scatter_of_each(tmp_path: Path) -> None:
    shapes = {"m": np.array([1, 2, 4]), "n": np.array([8, 8, 8]), "k": np.array([8, 8, 8])}
    seconds = np.array([1e-3, 2e-3, 4e-3])
    timings = KernelTimings("gemm", shapes, seconds, "a100_sxm", "vllm 1")
    mape = {"gemm": {"all": {"roofline": 0.5, "measured": 0.1}}}
    answer = {"what": "kernels", "device": "a100_sxm", "folds": 2, "mape": mape}
    folder = write_answer(tmp_path / "a", "validation.json", answer)
    predictions = {"roofline": seconds / 2, "measured": np.array([1e-3, NAN, 4e-3])}
    write_predictions(folder, {"gemm": (timings, predictions)})
    bars, scatter, table = _validated(tmp_path).parts
    assert isinstance(bars, Figure) and isinstance(scatter, Choice) and isinstance(table, Table)
    assert {each.name: each.y.tolist() for each in bars.series} == {"roofline": [0.5], "measured": [0.1]}
    by_name = {each.name: each for each in scatter.figures["gemm"].series}
    np.testing.assert_allclose(by_name["roofline"].y / by_name["roofline"].places, 0.5)
    assert by_name["measured"].y == pytest.approx([1, 4])  # without an answer there is no point


def test_a_validation_of_something_else_is_left_out(tmp_path: Path) -> None:
    write_answer(tmp_path / "a", "validation.json", {"what": "nosuch"})
    (run,), found = gather(the_runs(tmp_path))
    assert run.status == "damaged" and cost_model_section(found["validate"]) is None
    assert json.loads((tmp_path / "a/validation.json").read_text())["what"] in run.problem
