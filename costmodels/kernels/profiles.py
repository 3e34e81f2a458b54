"""Our own format of kernel timings: a folder that `servegym profile` writes, small enough to commit.

```
profile.json     format, device, software, provenance, and the data types and row counts of every table
OPERATOR.csv     dtype, kv_dtype, variant, the dimensions of the operator, seconds
```
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.schema import OPERATORS, KernelTimings
from servegym.costmodels.kernels.table import Table
from servegym.costmodels.output_folder import check_replaceable, output_folder

FORMAT = 1
MANIFEST = "profile.json"
_GROUP = ("dtype", "kv_dtype", "variant")


def write_profile(
    folder: str | Path, timings: Sequence[KernelTimings], provenance: Mapping[str, Any]
) -> None:
    """Write timings of one device under one software; the folder appears complete or not at all.

    provenance: whatever JSON holds (driver, clocks, versions, date). An earlier profile is replaced.
    Raises InputError where the folder holds something else, and for timings of several devices or
    softwares, none at all, or one group (operator, dtype, kv_dtype, variant) twice.
    """
    folder = Path(folder)
    files = [MANIFEST, *(f"{operator}.csv" for operator in OPERATORS)]
    check_replaceable(folder, files)
    made_by = {(each.device, each.software) for each in timings}
    if len(made_by) != 1:
        raise InputError(f"{folder}: timings of {len(made_by)} devices and softwares, a profile has one")
    [(device, software)] = made_by
    groups = [(each.operator, each.dtype, each.kv_dtype, each.variant) for each in timings]
    twice = [group for group in groups if groups.count(group) > 1]
    if twice:
        raise InputError(f"{folder}: {', '.join(twice[0])} stands twice among the timings, must stand once")
    manifest = {
        "format": FORMAT,
        "device": device,
        "software": software,
        "provenance": dict(provenance),
        "tables": [
            {
                "operator": each.operator,
                **{name: getattr(each, name) for name in _GROUP},
                "includes": each.includes,
                "rows": len(each),
            }
            for each in timings
        ],
    }
    with output_folder(folder, files) as partial:
        for operator in dict.fromkeys(each.operator for each in timings):
            _write_table(partial / f"{operator}.csv", [each for each in timings if each.operator == operator])
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def read_profile(folder: str | Path) -> list[KernelTimings]:
    """The timings as they were written, to the bit, in the same order.

    Raises InputError for a folder that is no profile, tables that do not have what the manifest says, and
    times that are not finite and above 0, with file and row.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    tables = {
        operator: Table(folder / f"{operator}.csv", (*_GROUP, *OPERATORS[operator], "seconds"))
        for operator in dict.fromkeys(str(each["operator"]) for each in manifest["tables"])
    }
    return [_read_group(tables[each["operator"]], each, manifest) for each in manifest["tables"]]


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """`profile.json` of a folder. Raises InputError where it is missing or not of this format."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        known = {each["operator"] for each in manifest["tables"]} <= set(OPERATORS)
        complete = all({*_GROUP, "includes", "rows"} <= set(each) for each in manifest["tables"])
        if not (
            manifest["format"] == FORMAT and {"device", "software"} <= set(manifest) and known and complete
        ):
            raise ValueError("format, device, software or tables are not as this version writes them")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the manifest of a profile of format {FORMAT}: {error}") from None
    result: dict[str, Any] = manifest
    return result


def _write_table(path: Path, timings: Sequence[KernelTimings]) -> None:
    dimensions = OPERATORS[timings[0].operator]
    lines = [",".join((*_GROUP, *dimensions, "seconds"))]
    for each in timings:
        group = [getattr(each, name) for name in _GROUP]
        if any(character in word for word in group for character in ',"\n'):
            raise InputError(f"{path.name}: {', '.join(group)} must not hold commas, quotes or line breaks")
        columns = [each.shapes[name].tolist() for name in dimensions]
        for *shape, seconds in zip(*columns, each.seconds.tolist(), strict=True):
            lines.append(",".join([*group, *map(str, shape), repr(seconds)]))
    path.write_text("\n".join(lines) + "\n")


def _read_group(table: Table, group: Mapping[str, Any], manifest: Mapping[str, Any]) -> KernelTimings:
    which: npt.NDArray[np.bool_] = np.logical_and.reduce([table.text(name) == group[name] for name in _GROUP])
    if which.sum() != group["rows"]:
        words = ", ".join(f"{name} {group[name]!r}" for name in _GROUP)
        raise InputError(f"{table.path}: {which.sum()} rows of {words}, {MANIFEST} says {group['rows']}")
    return KernelTimings(
        group["operator"],
        {name: table.integers(name)[which] for name in OPERATORS[group["operator"]]},
        table.seconds("seconds", 1.0)[which],
        manifest["device"],
        manifest["software"],
        group["dtype"],
        group["kv_dtype"],
        group["variant"],
        group["includes"],
        table.path,
        table.rows[which],
    )
