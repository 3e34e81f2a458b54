"""What a study says as a whole, from the small files of its shards."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy.stats import t as student_t

from servegym.costmodels.output_file import output_file
from servegym.envs.metrics import MEASURES
from servegym.experiments.studies.latency_histogram import RELATIVE_ERROR, LatencyHistogram
from servegym.experiments.studies.shards import (
    EPISODES,
    LATENCIES,
    Shard,
    histograms_table,
    read_histograms,
    write_table,
)

CONFIDENCE = 0.95
PERCENTILES = (50, 90, 99, 99.9)


def join_episodes(shards: Sequence[Shard], out: Path, path: Path) -> None:
    """The rows of all shards in one file, a shard at a time."""
    with output_file(path) as file:
        writer = None
        for shard in shards:
            table = pq.read_table(shard.path(out, EPISODES))
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        assert writer is not None  # a study has an episode
        writer.close()


def join_latencies(shards: Sequence[Shard], out: Path, path: Path) -> None:
    """The histograms of all shards, added up, a shard at a time."""
    totals = {name: LatencyHistogram.total([]) for name in MEASURES}
    for shard in shards:
        for name, part in read_histograms(shard.path(out, LATENCIES)).items():
            totals[name] = LatencyHistogram.total([totals[name], part])
    write_table(path, histograms_table(totals))


def summary(episodes_file: Path, latencies_file: Path) -> dict[str, Any]:
    """Totals, means over episodes with intervals, percentiles over all requests that finished.

    counts: exact. metrics: of each the mean over the episodes that have it. intervals: Student's interval of
    these means, as episodes are independent; NaN with one. latencies: percentiles up to `relative_error`.
    Metrics are read one column at a time.
    """
    counts, metrics, intervals = {}, {}, {}
    for name in pq.read_schema(episodes_file).names:
        values = pq.read_table(episodes_file, columns=[name])[name].to_numpy().astype(np.float64)
        if name.startswith("num_"):
            counts[name] = int(values.sum())
        elif name != "episode":
            metrics[name], *intervals[name] = mean_with_interval(values[~np.isnan(values)])
    histograms = read_histograms(latencies_file)
    return {
        "counts": counts,
        "metrics": metrics,
        "intervals": intervals,
        "latencies": {name: _percentiles(histogram) for name, histogram in histograms.items()},
        "relative_error": RELATIVE_ERROR,
    }


def mean_with_interval(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of independent values (n,), and the ends of its Student interval of CONFIDENCE; NaN of too few."""
    count = len(values)
    if count < 2:
        return float(values[0]) if count else math.nan, math.nan, math.nan
    mean = float(values.mean())
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, count - 1) * values.std(ddof=1) / math.sqrt(count))
    return mean, mean - half, mean + half


def _percentiles(histogram: LatencyHistogram) -> dict[str, float]:
    return {"num_values": histogram.num_values} | {
        f"p{percent:g}": histogram.percentile(percent) for percent in PERCENTILES
    }
