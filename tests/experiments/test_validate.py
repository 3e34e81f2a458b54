"""`servegym validate`: errors by hand, targets by name, and bad input."""

from pathlib import Path

import numpy as np
import pytest

from servegym.costmodels.kernels.profiles import write_profile
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.roofline import Efficiency, RooflineModel
from servegym.costmodels.operators.validation import errors, folds, predict_left_out, regions
from servegym.costmodels.specs import gpu_spec
from servegym.experiments.cli import main
from tests.experiments.commands import answer_of

H100 = gpu_spec("h100_sxm")


@pytest.fixture
def timings() -> KernelTimings:
    """GEMMs of a GPU that is a roofline with efficiencies of its own."""
    grid = np.meshgrid([1, 64, 2048], [1024, 2048, 4096, 8192], [1024, 2048, 4096], indexing="ij")
    shapes = dict(zip("mnk", (each.ravel() for each in grid), strict=True))
    model = RooflineModel(H100, {"gemm": Efficiency(compute=0.6, hbm=0.6, launch_s=5e-6)})
    return KernelTimings("gemm", shapes, model.seconds("gemm", shapes), "h100_sxm", "test")


def test_errors_by_hand() -> None:
    each = errors(np.array([1.0, 3.0, 2.0, 8.0]), np.array([1.0, 2.0, 4.0, 4.0]))
    assert (each.rows, each.mape, each.p50, each.max, each.bias) == (4, 0.5, 0.5, 1.0, 0.25)
    assert each.p90 == pytest.approx(0.85)


def test_folds_leave_whole_groups_out_and_each_once(timings: KernelTimings) -> None:
    pairs = list(zip(timings.shapes["n"], timings.shapes["k"], strict=True))
    times_out = np.zeros(len(timings), int)
    for left_out in folds(timings, 5):
        out = {pair for pair, is_out in zip(pairs, left_out, strict=True) if is_out}
        rest = {pair for pair, is_out in zip(pairs, left_out, strict=True) if not is_out}
        assert out and not out & rest
        times_out += left_out
    assert (times_out == 1).all()


def test_models_never_see_what_they_are_asked(timings: KernelTimings) -> None:
    def fit(train: KernelTimings, left_out: KernelTimings) -> RooflineModel:
        seen = set(zip(train.shapes["n"], train.shapes["k"], strict=True))
        assert not seen & set(zip(left_out.shapes["n"], left_out.shapes["k"], strict=True))
        return RooflineModel(H100)

    assert (predict_left_out(fit, timings, 4) < timings.seconds).all()


def test_regions_part_the_shapes(timings: KernelTimings) -> None:
    parts = regions(timings)
    assert list(parts) == ["m up to 16", "m 17 to 128", "m 1025 and more"]
    assert (sum(mask.astype(int) for mask in parts.values()) == 1).all()


def test_kernels_are_validated_from_a_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, timings: KernelTimings
) -> None:
    write_profile(tmp_path / "profile", [timings], {})
    words = ("validate", "kernels", f"data={tmp_path / 'profile'}", "folds=4")
    answer = answer_of(capsys, *words, f"out={tmp_path / 'figures'}")
    mape = answer["mape"]["gemm"]["all"]
    assert mape["calibrated"] < 0.1 < mape["roofline"] < 0.5
    assert mape["measured"] < 0.15
    assert {each["model"]: each["at_most"] for each in answer["targets"]} == {
        "measured": 0.04,
        "calibrated": 0.12,
    }
    assert all(each["met"] == (each["mape"] <= each["at_most"]) for each in answer["targets"])
    assert answer["outside"]["gemm"] == 0
    assert [Path(path).read_bytes()[:4] for path in answer["figures"]] == [b"\x89PNG"]
    assert main(list(words)) == 0
    assert "gemm" in capsys.readouterr().out


def test_bad_input_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, timings: KernelTimings
) -> None:
    write_profile(tmp_path / "profile", [timings], {})
    data = f"data={tmp_path / 'profile'}"
    for words, said in (
        (("wrong",), "validate wrong: must be one of kernels"),
        (("kernels", "data=nowhere"), "nowhere"),
        (("kernels", data, "device=a100_sxm"), "device = a100_sxm"),
        (("kernels", data, "folds=1"), "folds = 1: must be at least 2"),
        (("engine", "log=nowhere"), "nowhere"),
    ):
        assert main(["validate", *words]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1


def test_unseen_groups_are_predicted_from_all_of_the_data(
    timings: KernelTimings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only groups that the data lack count, and the models are fitted without them."""
    lacking = timings.take((timings.shapes["n"] == 2048) & (timings.shapes["k"] == 2048))
    held = timings.take(~((timings.shapes["n"] == 2048) & (timings.shapes["k"] == 2048)))
    write_profile(tmp_path / "data", [held], {})
    write_profile(tmp_path / "more", [timings], {})
    command = ("validate", "kernels", f"data={tmp_path / 'data'}")
    answer = answer_of(capsys, *command, f"unseen={tmp_path / 'more'}")
    assert answer["errors"]["gemm"]["measured"]["rows"] == len(lacking) == 3
    assert answer["mape"]["gemm"]["all"]["measured"] < 0.05 < answer["mape"]["gemm"]["all"]["roofline"]
    assert main([*command, f"unseen={tmp_path / 'data'}"]) == 2
    assert "has no shape group of h100_sxm that the data lack" in capsys.readouterr().err
