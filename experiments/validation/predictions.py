"""What kernel models predicted, timing by timing, as a table for reports."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.work import Floats
from servegym.costmodels.output_file import output_file

PREDICTIONS_FILE = "predictions.parquet"
"""Columns: table, model, measured_s, predicted_s (null where a model has no answer)."""


def write_predictions(
    folder: Path, predictions: Mapping[str, tuple[KernelTimings, Mapping[str, Floats]]]
) -> None:
    """Writes PREDICTIONS_FILE to `folder`: a row for each table, model and timing."""
    parts = [
        pa.table(
            {
                "table": pa.array([label] * len(timings)).dictionary_encode(),
                "model": pa.array([model] * len(timings)).dictionary_encode(),
                "measured_s": timings.seconds,
                "predicted_s": pa.array(predicted, mask=~np.isfinite(predicted)),
            }
        )
        for label, (timings, by_model) in predictions.items()
        for model, predicted in by_model.items()
    ]
    with output_file(folder / PREDICTIONS_FILE) as file:
        pq.write_table(pa.concat_tables(parts).unify_dictionaries(), file, compression="zstd")
