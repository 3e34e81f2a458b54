"""Measured tables: exact where nothing changes, right between shapes, honest outside."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.measured import MeasuredModel, join_variants, plain_roofline_s
from servegym.costmodels.operators.roofline import broadcast_shapes
from servegym.costmodels.operators.work import work
from servegym.costmodels.specs import gpu_spec

H100 = gpu_spec("h100_sxm")
M, N, K = (1, 8, 64, 512), (256, 512, 1024, 2048, 4096), (512, 1024, 2048, 4096)


def roofline_s(shapes: dict[str, np.ndarray]) -> np.ndarray:
    return plain_roofline_s(work("gemm", broadcast_shapes("gemm", shapes), H100), H100, "bf16")


def table(efficiency=lambda m, n, k: 0.5 + 0 * m, variant: str = "") -> KernelTimings:
    """All of M x N x K, at a share of the plain roofline."""
    m, n, k = (each.ravel() for each in np.meshgrid(M, N, K, indexing="ij"))
    shapes = {"m": m, "n": n, "k": k}
    seconds = roofline_s(shapes) / efficiency(m, n, k)
    return KernelTimings("gemm", shapes, seconds, "h100_sxm", "test", variant=variant, source="made up")


def test_constant_efficiency_is_found_everywhere_inside() -> None:
    model = MeasuredModel([table()], H100)
    shapes = {
        "m": np.array([1, 3, 100, 512]),
        "n": np.array([256, 700, 3000, 4096]),
        "k": np.array([513, 800, 900, 4096]),
    }
    assert model.seconds("gemm", shapes) == pytest.approx(roofline_s(shapes) / 0.5, rel=1e-9)


def test_dip_in_m_stays_where_it_was_measured() -> None:
    """A larger m may be faster than a smaller one; the table says so, and is monotone in between."""
    model = MeasuredModel([table(lambda m, n, k: np.where(m == 8, 0.1, 0.8))], H100)
    shapes = {"m": np.array([1, 2, 4, 8, 16, 32, 64]), "n": 1024, "k": 1024}
    seconds = model.seconds("gemm", shapes)
    efficiency = roofline_s({key: np.broadcast_to(value, 7) for key, value in shapes.items()}) / seconds
    assert efficiency[[0, 3, 6]] == pytest.approx([0.8, 0.1, 0.8], rel=0.01)
    assert (np.diff(efficiency[:4]) < 0).all()
    assert (np.diff(efficiency[3:]) > 0).all()
    assert seconds[6] < seconds[3]


def test_left_out_configuration_is_predicted_from_its_neighbours() -> None:
    full = table(lambda m, n, k: 0.3 + 0.05 * np.log2(n / 256) + 0.02 * np.log2(k / 512))
    left_out = (full.shapes["n"] == 1024) & (full.shapes["k"] == 1024)
    model = MeasuredModel([full.take(~left_out)], H100)
    test = full.take(left_out)
    assert model.seconds("gemm", test.shapes) == pytest.approx(test.seconds, rel=0.03)


def test_single_outlier_moves_its_neighbours_little() -> None:
    clean = table()
    row = int(
        np.flatnonzero((clean.shapes["m"] == 8) & (clean.shapes["n"] == 1024) & (clean.shapes["k"] == 1024))[
            0
        ]
    )
    seconds = clean.seconds.copy()
    seconds[row] *= 100
    dirty = KernelTimings("gemm", clean.shapes, seconds, "h100_sxm", "test")
    shape = {"m": 8, "n": 1024, "k": 2048}
    expected = MeasuredModel([clean], H100).seconds("gemm", shape)
    assert MeasuredModel([dirty], H100).seconds("gemm", shape) == pytest.approx(expected, rel=0.15)
    at = {name: values[row] for name, values in clean.shapes.items()}
    assert MeasuredModel([dirty], H100).seconds("gemm", at) < 3 * clean.seconds[row]


def test_outside_is_refused_with_operator_shape_and_range() -> None:
    model = MeasuredModel([table()], H100)
    with pytest.raises(InputError, match=r"gemm bf16 with m 8, n 9000, k 512: outside .* n 256 to 4096"):
        model.seconds("gemm", {"m": 8, "n": [512, 9000], "k": 512})
    with pytest.raises(InputError, match="no table of decode_attention bf16: there are gemm bf16"):
        model.seconds(
            "decode_attention",
            {"batch": 1, "history": 1, "heads": 1, "kv_heads": 1, "head_dim": 64, "window": 0},
        )


def test_unmeasured_combination_of_the_grid_is_outside() -> None:
    timings = table()
    heads = timings.take((timings.shapes["m"] != 8) | (timings.shapes["n"] != 0))
    shapes = {
        "batch": np.repeat([1, 1, 8], 3), "history": np.repeat([10, 1000, 10], 3),
        "heads": np.tile([8, 16, 32], 3), "kv_heads": np.full(9, 8), "head_dim": np.full(9, 128),
        "window": np.zeros(9, np.int64),
    }  # fmt: skip
    assert len(heads) == len(timings)
    model = MeasuredModel(
        [KernelTimings("decode_attention", shapes, np.full(9, 1e-4), "h100_sxm", "test")], H100
    )
    asked = {
        **{name: values[0] for name, values in shapes.items()},
        "batch": [1, 4, 8],
        "history": [100, 10, 1000],
    }
    assert model.covers("decode_attention", asked).tolist() == [True, True, False]


def test_extrapolation_is_the_roofline_at_the_edge_and_marked() -> None:
    model = MeasuredModel([table()], H100, extrapolate="roofline")
    shapes = {"m": np.array([8, 4096]), "n": np.array([512, 16384]), "k": np.array([512, 16384])}
    assert model.covers("gemm", shapes).tolist() == [True, False]
    assert model.seconds("gemm", shapes) == pytest.approx(roofline_s(shapes) / 0.5, rel=1e-6)


def test_variants_that_share_no_shape_are_one_table() -> None:
    whole = table(variant="a")
    small = whole.shapes["n"] < 1024
    other = table(variant="b").take(~small)
    (joined,) = join_variants([whole.take(small), other])
    assert (joined.variant, len(joined)) == ("", len(whole))
    assert len(join_variants([whole, other])) == 2
    with pytest.raises(InputError, match="variant must be one of a, b"):
        MeasuredModel([whole, other], H100).seconds("gemm", {"m": 1, "n": 256, "k": 512})


def test_impossible_time_is_refused() -> None:
    with pytest.raises(InputError, match="physically impossible"):
        MeasuredModel([table(lambda m, n, k: 100.0 + 0 * m)], H100)
