"""`servegym calibrate`: known coefficients come back from timings that were made with them."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from servegym.costmodels.kernels.folder import read_folder
from servegym.costmodels.kernels.profiles import write_profile
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.calibrated import from_json
from servegym.costmodels.operators.roofline import Efficiency, RooflineModel
from servegym.costmodels.specs import GPUS
from servegym.experiments.cli import main
from servegym.experiments.fits.calibration import fit_roofline
from tests.experiments.commands import answer_of, error_of

GPU = GPUS["a100_sxm"]
GEMM_SHAPES = {
    name: np.array(column)
    for name, column in zip(
        ("m", "n", "k"),
        zip(*product((1, 16, 64, 256, 1024, 4096), (512, 2048, 8192, 3072), (1024, 4096, 7168)), strict=True),
        strict=True,
    )
}


def timings(operator, shapes, seconds, **more):
    return KernelTimings(
        operator, shapes, np.asarray(seconds), **{"device": "a100_sxm", "software": "made up 1", **more}
    )


def gemms(efficiency, noise=0.0, **more):
    seconds = RooflineModel(GPU, {"gemm": efficiency}).seconds("gemm", GEMM_SHAPES)
    errors = np.random.default_rng(0).normal(1, noise, len(seconds)) if noise else 1.0
    return timings("gemm", GEMM_SHAPES, seconds * errors, **more)


def layers(operator, law, **dimensions):
    """Timings of one layer of Llama-3.1-8B (32 layers) over the product of dimensions."""
    names, columns = tuple(dimensions), zip(*product(*dimensions.values()), strict=True)
    shapes = {name: np.array(column) for name, column in zip(names, columns, strict=True)}
    return timings(operator, shapes, law(shapes) / 32, variant="llama_3_1_8b")


@pytest.mark.compiled
def test_roofline_recovers_its_efficiencies(capsys, folder):
    truth = Efficiency(compute=0.7, hbm=0.8, l2=1.0, launch_s=5e-6, sharpness=3.0)
    write_profile("data", [gemms(truth, noise=0.03)], {})
    answer = answer_of(capsys, "calibrate", "data=data", "out=runs/fit.json")
    assert answer["device"] == "a100_sxm"
    (fit,) = answer["fits"]
    assert fit["name"] == "gemm" and fit["timings"] == len(GEMM_SHAPES["m"])
    assert fit["left_out"]["rows"] == fit["timings"] and fit["left_out"]["mape"] < 0.06
    model = from_json(json.loads(Path("runs/fit.json").read_text()), GPU)
    predicted = model.seconds("gemm", GEMM_SHAPES)
    assert np.mean(np.abs(predicted / gemms(truth).seconds - 1)) < 0.02
    assert model.efficiencies["gemm"].compute == pytest.approx(0.7, rel=0.05)
    assert model.efficiencies["gemm"].hbm == pytest.approx(0.8, rel=0.05)


def test_batch_law_of_a_decode_is_that_of_all_layers(capsys, folder):
    def law(shapes):
        return 1e-4 * shapes["batch"] + 6e-3 + 1e-8 * shapes["history"]

    write_profile(
        "data",
        [layers("decode_layer", law, batch=(1, 4, 16, 64), history=(0, 100_000), tp=(1,))],
        {},
    )
    answer = answer_of(capsys, "calibrate", "data=data", "model=batch", "out=fit.json")
    short, long = answer["fits"]
    assert (short["name"], long["name"]) == tuple(
        f"llama_3_1_8b, tp 1, history {history}" for history in (0, 100_000)
    )
    assert short["figures"] == pytest.approx({"alpha_s": 1e-4, "beta_s": 6e-3})
    assert long["figures"] == pytest.approx({"alpha_s": 1e-4, "beta_s": 7e-3})
    assert short["left_out"]["rows"] == 4 and short["left_out"]["max"] < 1e-6
    written = json.loads(Path("fit.json").read_text())
    assert written["laws"][short["name"]] == short["figures"]
    assert written["provenance"]["data"] == "data" and written["provenance"]["software"] == ["made up 1"]


def test_error_is_that_of_batch_sizes_left_out(capsys, folder):
    """One size out of line costs much when it is predicted from the others, and nothing may hide that."""

    def law(shapes):
        return np.where(shapes["batch"] == 64, 2.0, 1.0) * (1e-4 * shapes["batch"] + 6e-3)

    write_profile("data", [layers("decode_layer", law, batch=(1, 2, 4, 64), history=(0,), tp=(1,))], {})
    (fit,) = answer_of(capsys, "calibrate", "data=data", "model=batch", "out=fit.json")["fits"]
    assert fit["left_out"]["max"] >= 0.5 - 1e-6


def test_two_batch_sizes_are_too_few_to_leave_one_out(capsys, folder):
    def law(shapes):
        return 1e-4 * shapes["batch"] + 6e-3

    write_profile("data", [layers("decode_layer", law, batch=(1, 2), history=(0,), tp=(1,))], {})
    words = ("calibrate", "data=data", "model=batch", "out=fit.json")
    assert answer_of(capsys, *words)["fits"][0]["left_out"] is None
    assert main(words) == 0
    assert "history 0" in capsys.readouterr().out


def test_sequence_parallel_law_comes_from_prefills_without_history(capsys, folder):
    def law(shapes):
        total = shapes["batch"] * shapes["tokens"]
        squares = shapes["batch"] * shapes["tokens"] ** 2
        return (5e-3 + 2e-5 * total + 3e-10 * squares) * np.where(shapes["history"] > 0, 9.0, 1.0)

    table = layers(
        "prefill_layer", law, batch=(1, 4), tokens=(64, 512, 4096, 16_384), history=(0, 1024), tp=(2,)
    )
    write_profile("data", [table], {})
    (fit,) = answer_of(capsys, "calibrate", "data=data", "model=sequence_parallel", "out=fit.json")["fits"]
    assert fit["name"] == "llama_3_1_8b, tp 2" and fit["timings"] == 8
    assert fit["figures"] == pytest.approx(
        {"constant_s": 5e-3, "per_token_s": 2e-5, "per_token_squared_s": 3e-10}
    )
    assert fit["left_out"]["max"] < 1e-6


@pytest.mark.parametrize(
    "words, message",
    [
        (("data=data", "model=forest"), "model = forest: must be one of roofline, batch, sequence_parallel"),
        (("data=nowhere",), "nowhere: must be a folder"),
        (("data=data", "device=h100_sxm"), "device = h100_sxm: data has timings of a100_sxm"),
        (("data=data", "dtype=fp8"), "no timings of a100_sxm with dtype fp8"),
        (("data=data", "model=batch"), "decode_layer"),
        (("data=data", "model=sequence_parallel"), "prefill_layer"),
        (("data=elsewhere",), "unknown GPU 'cpu'"),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, folder, words, message):
    write_profile("data", [gemms(Efficiency())], {})
    write_profile("elsewhere", [gemms(Efficiency(), device="cpu")], {})
    assert message in error_of(capsys, "calibrate", *words, "out=fit.json")


@pytest.mark.compiled
def test_a100_gemms_left_out_whole_are_predicted(real_data):
    """The real table: the calibrated roofline keeps its promise of 12 %."""
    folder = real_data("kernels/aiconfigurator/a100_sxm.yaml").with_suffix("")
    tables = [each for each in read_folder(folder) if (each.operator, each.dtype) == ("gemm", "bf16")]
    (fit,) = fit_roofline(tables, "a100_sxm")
    assert fit.left_out.rows == len(tables[0])
    assert fit.left_out.mape < 0.12
