import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.folder import read_folder
from servegym.costmodels.kernels.limits import impossible, least_seconds, refuse_impossible
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.specs import GPUS, gpu_spec

H100 = gpu_spec("h100_sxm")


def gemm(m, n, k, seconds, **others):
    shapes = {name: np.array([size]) for name, size in zip("mnk", (m, n, k), strict=True)}
    return KernelTimings("gemm", shapes, np.array([seconds]), "h100_sxm", "test", **others)


def test_the_limit_is_the_peak_or_the_cache():
    compute_s = 2 * 8192**3 / 989.5e12
    assert least_seconds(gemm(8192, 8192, 8192, 1.0), H100) == pytest.approx([compute_s])
    assert least_seconds(gemm(8192, 8192, 8192, 1.0, dtype="fp8"), H100) == pytest.approx([compute_s / 2])
    moved_bytes = 2 * (4096 + 4096 * 4096 + 4096)
    assert least_seconds(gemm(1, 4096, 4096, 1.0), H100) == pytest.approx([moved_bytes / H100.l2_bytes_per_s])


def test_five_percent_below_the_limit_pass_and_more_do_not():
    compute_s = 2 * 8192**3 / 989.5e12
    assert not impossible(gemm(8192, 8192, 8192, 0.951 * compute_s), H100).any()
    assert impossible(gemm(8192, 8192, 8192, 0.949 * compute_s), H100).all()


def test_what_has_no_limit_passes():
    shapes = {"bytes": np.array([2**40]), "gpus": np.array([8])}
    refuse_impossible([KernelTimings("all_reduce", shapes, np.array([1e-9]), "h100_sxm", "test")], H100)
    refuse_impossible([gemm(8192, 8192, 8192, 1e-9, dtype="int2")], H100)
    refuse_impossible([gemm(8192, 8192, 8192, 1e-9, dtype="fp8")], gpu_spec("a100_sxm"))  # has no such unit


def test_an_impossible_time_is_refused_with_its_row():
    good, bad = gemm(1, 8, 8, 1.0), gemm(64, 4096, 4096, 1e-9, source="x.csv", rows=np.array([17]))
    with pytest.raises(InputError, match=r"x.csv, row 17: gemm \(m 64, n 4096, k 4096\) takes 1e-09 s, phys"):
        refuse_impossible([good, bad], H100)


@pytest.mark.parametrize(
    "name", ["aiconfigurator", "vidur", "llmservingsim/profiler/perf/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16"]
)
def test_no_published_time_is_impossible(real_data, name):
    """Wrong dimensions, bytes or milliseconds would put thousands of rows below the limit."""
    for each in read_folder(real_data(f"kernels/{name}")):
        if each.device in GPUS:
            refuse_impossible([each], GPUS[each.device])
