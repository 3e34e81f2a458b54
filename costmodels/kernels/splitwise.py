"""Splitwise's table: prefill and decode times of whole models (Patel et al., ISCA 2024).

From https://github.com/Mutinifni/splitwise-sim, `data/perf_model.csv`: DGX-A100 and DGX-H100 under vLLM of
2023, fp16, milliseconds; one variable swept at a time, 5 repeats of a point. End to end, so not kernels: a
table of its own. `e2e_time` is left out: from 1,024 output tokens on, the model stopped before their number.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from servegym.costmodels.kernels.devices import device_name
from servegym.costmodels.kernels.table import Table

_MS = 1e-3


@dataclass(frozen=True, eq=False)
class SplitwiseTable:
    """N measurements of one model on one device; arrays (N,), tokens int64, the rest float64."""

    model: str
    device: str
    tensor_parallel: npt.NDArray[np.int64]
    prompt_tokens: npt.NDArray[np.int64]
    """Of each request of the batch."""
    batch_size: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    prompt_s: npt.NDArray[np.float64]
    """Prefill of the whole batch."""
    token_s: npt.NDArray[np.float64]
    """One decode iteration of the batch, mean over the output."""
    average_power: npt.NDArray[np.float64]
    """Share of the GPUs' TDP, over the whole run; NaN where it was not measured."""
    peak_power: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.prompt_s)


def read_splitwise(path: str | Path) -> list[SplitwiseTable]:
    """One table per model and device of a `perf_model.csv[.gz]`.

    Raises InputError for missing columns, and with file and row for a bad value or a time that is not finite
    and above 0.
    """
    columns = ("tensor_parallel", "prompt_size", "batch_size", "token_size", "prompt_time", "token_time")
    table = Table(Path(path), ("model", "hardware", *columns, "average_power", "peak_power"))
    return [
        SplitwiseTable(
            model=model,
            device=device_name(hardware),
            tensor_parallel=table.integers("tensor_parallel")[which],
            prompt_tokens=table.integers("prompt_size")[which],
            batch_size=table.integers("batch_size")[which],
            output_tokens=table.integers("token_size")[which],
            prompt_s=table.seconds("prompt_time", _MS)[which],
            token_s=table.seconds("token_time", _MS)[which],
            average_power=_power(table, "average_power")[which],
            peak_power=_power(table, "peak_power")[which],
        )
        for (model, hardware), which in table.groups("model", "hardware")
    ]


def _power(table: Table, name: str) -> npt.NDArray[np.float64]:
    """0 stands for "not measured" (all of DGX-H100)."""
    power = table.numbers(name)
    return np.where(power > 0, power, np.nan)
