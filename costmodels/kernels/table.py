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
        words, codes = self._codes(name)
        return words[codes]

    def groups(self, *names: str) -> list[tuple[tuple[str, ...], npt.NDArray[np.int64]]]:
        """The distinct words of these columns and the indices of their rows, by first row."""
        words, codes = zip(*(self._codes(name) for name in names), strict=True)
        key = np.ravel_multi_index(codes, [len(each) for each in words])
        first, inverse = np.unique(key, return_index=True, return_inverse=True)[1:]
        return [
            (
                tuple(str(each[code[first[i]]]) for each, code in zip(words, codes, strict=True)),
                np.flatnonzero(inverse == i),
            )
            for i in np.argsort(first)
        ]

    def refuse(self, name: str, illegal: npt.NDArray[np.bool_], allowed: str) -> None:
        """InputError naming the first row where `illegal` is True, and what `name` must be."""
        if illegal.any():
            i = int(np.argmax(illegal))
            raise InputError(
                f"{self.path}, row {i + 1}: {name} is {self._columns[name][i].as_py()}, must be {allowed}"
            )

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
        self.refuse(name, ~legal, "an integer of at least 0")
        return values.astype(np.int64)

    def seconds(self, name: str, unit_s: float) -> npt.NDArray[np.float64]:
        """A column of times in units of `unit_s` seconds. Raises InputError where not finite and above 0."""
        values = self.numbers(name)
        self.refuse(name, ~(np.isfinite(values) & (values > 0)), "finite and above 0")
        return values * unit_s

    def _codes(self, name: str) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
        """The distinct words of a column, and which of them each row has."""
        import pyarrow as pa

        column = self._columns[name].cast(pa.string()).fill_null("")
        words = column.combine_chunks().dictionary_encode()
        return np.array(words.dictionary.to_pylist(), np.str_), words.indices.to_numpy().astype(np.int64)

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
