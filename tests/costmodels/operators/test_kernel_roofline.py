"""The roofline of kernels against closed forms, and the regression that finds its efficiencies."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.schema import OPERATORS, KernelTimings
from servegym.costmodels.operators.calibrated import (
    calibrate,
    calibrated_roofline,
    fit_efficiency,
    from_json,
    to_json,
)
from servegym.costmodels.operators.roofline import Efficiency, RooflineModel
from servegym.costmodels.operators.work import work
from servegym.costmodels.specs import gpu_spec

H100 = gpu_spec("h100_sxm")
ATTENTION = {"heads": 32, "kv_heads": 8, "head_dim": 128, "window": 0}


def floats(shapes: dict[str, object]) -> dict[str, np.ndarray]:
    return {name: np.atleast_1d(np.asarray(value, float)) for name, value in shapes.items()}


def test_small_gemm_streams_its_weights() -> None:
    seconds = RooflineModel(H100).seconds("gemm", {"m": 1, "n": 16384, "k": 16384})
    assert seconds == pytest.approx(3e-6 + 2 * 16384 * (16384 + 2) / 3.35e12)


def test_a_row_too_many_starts_another_wave() -> None:
    """11 x 12 tiles of 256 x 128 keep 132 SMs busy to the end; with one row more no choice of tiles does."""
    asked = work("gemm", floats({"m": [2816, 2817], "n": [1536, 1536], "k": [16384, 16384]}), H100)
    assert asked.spent_flops[0] == asked.flops[0] == 2 * 2816 * 1536 * 16384
    assert asked.spent_flops[1] > 1.05 * asked.flops[1]


def test_weight_only_int4_moves_a_quarter_of_the_bytes() -> None:
    shapes = floats({"m": 1, "n": 8192, "k": 8192})
    ratio = work("gemm", shapes, H100, "int4").hbm_bytes / work("gemm", shapes, H100).hbm_bytes
    assert ratio == pytest.approx((0.5 + 2 / 128) / 2, rel=1e-3)
    assert work("gemm", shapes, H100, "int4").flops == work("gemm", shapes, H100).flops


def test_prefill_with_history_is_the_rest_of_a_longer_prefill() -> None:
    def flops(tokens: int, history: int, window: int = 0) -> float:
        shapes = {**ATTENTION, "batch": 1, "tokens": tokens, "history": history, "window": window}
        return float(work("prefill_attention", floats(shapes), H100).flops[0])

    assert flops(1000, 0) == 4 * 128 * 32 * 1000 * 1001 / 2
    assert flops(300, 0) + flops(700, 300) == flops(1000, 0)
    for window in (1, 128, 350, 1000):
        pairs = sum(min(i, window) for i in range(1, 1001))
        assert flops(1000, 0, window) == 4 * 128 * 32 * pairs
        assert flops(300, 0, window) + flops(700, 300, window) == flops(1000, 0, window)


def test_decode_reads_the_keys_and_values_in_its_window() -> None:
    shapes = {**ATTENTION, "batch": 64, "history": [99, 9999, 9999], "window": [0, 0, 1000]}
    shapes = {name: np.broadcast_to(value, 3) for name, value in shapes.items()}
    moved = work("decode_attention", floats(shapes), H100).hbm_bytes
    queries = 64 * 2 * 2 * 32 * 128
    assert moved - queries == pytest.approx(64 * 2 * 2 * 8 * 128 * np.array([100, 10000, 1000]))


def test_collectives_send_their_share() -> None:
    model = RooflineModel(
        H100, {"all_reduce": Efficiency(launch_s=0.0), "send_recv": Efficiency(launch_s=0.0)}
    )
    assert model.seconds("all_reduce", {"bytes": 450e6, "gpus": [2, 4]}) == pytest.approx([1e-3, 1.5e-3])
    assert model.seconds("send_recv", {"bytes": 450e6, "gpus": 2}) == pytest.approx(1e-3)


def test_every_operator_but_cpu_work_has_a_time() -> None:
    model = RooflineModel(H100)
    for operator in ("gemm", "prefill_attention", "decode_attention", "mixed_attention", "moe", "all_reduce",
                     "all_gather", "reduce_scatter", "all_to_all", "send_recv", "normalisation", "activation",
                     "rotary", "embedding", "sampling"):  # fmt: skip
        small = model.seconds(operator, dict.fromkeys(OPERATORS[operator], 2))
        large = model.seconds(operator, dict.fromkeys(OPERATORS[operator], 512))
        assert 0 < small < large, operator
    with pytest.raises(InputError, match="cpu_overhead"):
        model.seconds("cpu_overhead", {"sequences": 1, "gpus": 1})


def test_regression_finds_the_efficiencies_in_spite_of_outliers() -> None:
    truth = Efficiency(compute=0.7, hbm=0.6, l2=1.0, tile_s=5e-7, launch_s=4e-6, sharpness=4.0)
    m, n, k = (
        each.ravel() for each in np.meshgrid([1, 16, 128, 1024, 8192], [512, 4096, 16384], [512, 4096, 16384])
    )
    shapes = {"m": m, "n": n, "k": k}
    seconds = RooflineModel(H100, {"gemm": truth}).seconds("gemm", shapes)
    seconds[7] *= 50
    seconds[20] *= 10
    found = fit_efficiency(KernelTimings("gemm", shapes, seconds, "h100_sxm", "test"), H100)
    for name in ("compute", "hbm", "launch_s"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.05), name


def test_figures_survive_their_file() -> None:
    shapes = {"bytes": np.array([1000, 10**6, 10**9]), "gpus": np.array([2, 2, 2])}
    truth = RooflineModel(H100, {"all_reduce": Efficiency(link=0.6, launch_s=5e-6)})
    timings = KernelTimings("all_reduce", shapes, truth.seconds("all_reduce", shapes), "h100_sxm", "test")
    model = from_json(to_json(calibrate([timings], H100), {"source": "test"}), H100)
    assert model.seconds("all_reduce", shapes) == pytest.approx(timings.seconds, rel=1e-3)


@pytest.mark.parametrize("name", ["h100_sxm", "a100_sxm"])
def test_committed_figures_say_that_gpus_miss_their_nominal_rates(name: str) -> None:
    gpu = gpu_spec(name)
    bare, real = RooflineModel(gpu), calibrated_roofline(gpu)
    decode = {**ATTENTION, "batch": 32, "history": 4000}
    for operator, shapes in (("gemm", {"m": 1, "n": 8192, "k": 8192}), ("decode_attention", decode)):
        ratio = float(real.seconds(operator, shapes) / bare.seconds(operator, shapes))
        assert 1.0 < ratio < 2.0, operator


def test_gpu_without_figures_is_named() -> None:
    with pytest.raises(InputError, match="rtx_pro_6000, there are: a100_sxm, h100_sxm"):
        calibrated_roofline(gpu_spec("rtx_pro_6000"))
