"""One table of a timing source (Parquet, CSV, gzipped CSV) as checked NumPy columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError


class Table:
    """The columns of one file. `path` is its name in messages; rows count from 1 after the header."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Read a file that must have these columns once each; other columns are kept too.

        Raises InputError for a file that cannot be read, has no rows, or lacks a column.
        """
        self.path = str(path)
        self._columns = _read(path)
        names = self._columns.column_names
        absent = [name for name in columns if names.count(name) != 1]
        if absent:
            raise InputError(
                f"{path}: column {', '.join(absent)} is missing or repeated; found: {', '.join(names)}"
            )
        if not self._columns.num_rows:
            raise InputError(f"{path}: the table has no rows, must have at least one")
        self.rows: npt.NDArray[np.int64] = np.arange(1, self._columns.num_rows + 1)

    def __contains__(self, name: str) -> bool:
        return bool(self._columns.column_names.count(name) == 1)

    def __len__(self) -> int:
        return len(self.rows)

    def text(self, name: str) -> npt.NDArray[np.str_]:
        """A column of words, `<U`; an empty cell is ""."""
        import pyarrow as pa

        column = self._columns[name].cast(pa.string()).fill_null("")
        words = column.combine_chunks().dictionary_encode()  # few distinct words, many rows
        distinct: npt.NDArray[np.str_] = np.array(words.dictionary.to_pylist(), dtype=np.str_)
        which: npt.NDArray[np.int32] = words.indices.to_numpy()
        return distinct[which]

    def numbers(self, name: str, *, empty: bool = False) -> npt.NDArray[np.float64]:
        """A column of numbers, float64; an empty cell is NaN where `empty` allows it.

        Raises InputError with file, row and value for a cell that is not a number.
        """
        import pyarrow as pa

        column = self._columns[name]
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            column = pa.chunked_array(
                [[self._number(name, i, cell.as_py()) for i, cell in enumerate(column)]]
            )
        column = column.cast(pa.float64())
        if column.null_count and not empty:
            row = int(np.argmax(column.is_null().to_numpy())) + 1
            raise InputError(f"{self.path}, row {row}: {name} is empty, must be a number")
        values: npt.NDArray[np.float64] = column.to_numpy()
        return values

    def integers(self, name: str) -> npt.NDArray[np.int64]:
        """A column of integers of at least 0, int64. Raises InputError with file, row and value."""
        values = self.numbers(name)
        legal = (values >= 0) & (values <= 2**53) & (values == np.floor(values))
        if not legal.all():
            i = int(np.argmin(legal))
            raise InputError(
                f"{self.path}, row {i + 1}: {name} is {values[i]:g}, must be an integer of at least 0"
            )
        return values.astype(np.int64)

    def seconds(self, name: str, unit_s: float) -> npt.NDArray[np.float64]:
        """A column of times in units of `unit_s` seconds. Raises InputError where not finite and above 0."""
        values = self.numbers(name)
        legal = np.isfinite(values) & (values > 0)
        if not legal.all():
            i = int(np.argmin(legal))
            raise InputError(f"{self.path}, row {i + 1}: {name} is {values[i]:g}, must be finite and above 0")
        return values * unit_s

    def _number(self, name: str, i: int, cell: Any) -> float | None:
        if cell is None or cell == "":
            return None
        try:
            return float(cell)
        except (TypeError, ValueError):
            raise InputError(f"{self.path}, row {i + 1}: {name} is {cell!r}, must be a number") from None


def filled(shapes: Mapping[str, npt.ArrayLike], count: int) -> dict[str, npt.NDArray[np.int64]]:
    """Dimensions as a schema wants them: each int64 (count,), whether given as one number or as an array."""
    return {name: np.broadcast_to(np.asarray(at, np.int64), count) for name, at in shapes.items()}


def find(folder: Path, name: str) -> Path:
    """`folder/name`, or `folder/name.gz`. Raises InputError where neither is a file."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{folder}: must hold {name} or {name}.gz")


def _read(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            return pa.parquet.read_table(path)
        options = pa.csv.ConvertOptions(null_values=[""])
        return pa.csv.read_csv(path, convert_options=options)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as a table: {str(error).splitlines()[0]}") from None
