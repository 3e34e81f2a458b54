"""Histograms add up exactly, and percentiles from them are as close as they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.experiments.studies.latency_histogram import RELATIVE_ERROR, LatencyHistogram
from tests.conftest import examples

LATENCIES = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=50)


@given(values=LATENCIES, percent=st.floats(0, 100))
@examples(300)
def test_percentiles_are_within_the_relative_error(values: list[float], percent: float) -> None:
    exact = np.percentile(values, percent, method="inverted_cdf")
    found = LatencyHistogram.of(np.array(values)).percentile(percent)
    assert abs(found - exact) <= RELATIVE_ERROR * exact


@given(parts=st.lists(LATENCIES, max_size=5))
@examples(100)
def test_parts_add_up_in_any_order(parts: list[list[float]]) -> None:
    together = LatencyHistogram.of(np.array([value for part in parts for value in part]))
    for order in (parts, parts[::-1]):
        total = LatencyHistogram.total(LatencyHistogram.of(np.array(part)) for part in order)
        np.testing.assert_array_equal(total.bins, together.bins)
        np.testing.assert_array_equal(total.counts, together.counts)


def test_what_never_happened_is_not_counted() -> None:
    histogram = LatencyHistogram.of(np.array([np.nan, 0.25, np.nan, 0.0]))
    assert histogram.num_values == 2
    assert histogram.percentile(100) == pytest.approx(0.25, rel=RELATIVE_ERROR)
    assert np.isnan(LatencyHistogram.of(np.full(3, np.nan)).percentile(50))
