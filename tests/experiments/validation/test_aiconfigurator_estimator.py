"""The peer estimator, where its package is installed: on rows that its tables hold."""

import numpy as np
import pytest

from servegym.costmodels.kernels.aiconfigurator import read
from servegym.experiments.validation.aiconfigurator_estimator import aiconfigurator_estimator


def test_it_returns_the_gemms_it_was_given(real_data) -> None:
    pytest.importorskip("aiconfigurator_core", reason="the extra `kernels` is not installed")
    folder = real_data("kernels/aiconfigurator")
    gemms = [each for each in read(folder, "a100_sxm", ("gemm",), framework="vllm") if each.dtype == "bf16"]
    some = gemms[0].take(np.arange(0, len(gemms[0]), 400))
    estimator = aiconfigurator_estimator(folder, "a100_sxm", "vllm", "0.14.0")
    assert estimator is not None
    np.testing.assert_allclose(estimator.seconds("gemm", some.shapes), some.seconds, rtol=1e-6)


def test_without_tables_in_its_layout_there_is_none(tmp_path) -> None:
    assert aiconfigurator_estimator(tmp_path, "a100_sxm", "vllm", "0.14.0") is None
