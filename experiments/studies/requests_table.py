"""The requests of an episode as rows of Parquet: the columns of `servegym simulate`, in few bytes."""

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from servegym.envs.metrics import MEASURES
from servegym.envs.sim.llm.simulate import OUTCOMES, Results

_COLUMNS = [field for field in fields(Results) if field.name not in ("log", "outcome")]
_TIMES = [field.name for field in _COLUMNS if field.name.endswith("_s")] + list(MEASURES)
_COUNTS = [field.name for field in _COLUMNS if not field.name.endswith("_s")]

SCHEMA = pa.schema(
    [
        ("episode", pa.int32()),
        *((field.name, pa.float64() if field.name in _TIMES else pa.int32()) for field in _COLUMNS),
        *((name, pa.float64()) for name in MEASURES),
        ("outcome", pa.dictionary(pa.int8(), pa.string())),
    ]
)
"""Times keep every bit."""

WRITING: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,  # higher ones find next to nothing more
    "use_dictionary": ["episode", *_COUNTS, "outcome"],
    "column_encoding": dict.fromkeys(_TIMES, "BYTE_STREAM_SPLIT"),  # a quarter less than plain ones
}
"""How Parquet stores them: 46 bytes a request on the scenario generated_8xh100."""


def as_rows(episode: int, results: Results, measured: dict[str, npt.NDArray[np.float64]]) -> pa.RecordBatch:
    """A row per request of an episode; null for what never happened.

    measured: MEASURES of the requests, float64 (N,).
    """
    columns = {name: getattr(results, name).astype(np.int32) for name in _COUNTS}
    columns |= {"episode": np.full(len(results.arrival_s), episode, np.int32)}
    times = {name: measured[name] if name in measured else getattr(results, name) for name in _TIMES}
    arrays = {name: pa.array(column) for name, column in columns.items()}
    arrays |= {name: pa.array(column, from_pandas=True) for name, column in times.items()}  # NaN is null
    outcome = pa.array(results.outcome.astype(np.int8))
    arrays["outcome"] = pa.DictionaryArray.from_arrays(outcome, list(OUTCOMES))
    return pa.record_batch([arrays[name] for name in SCHEMA.names], schema=SCHEMA)
