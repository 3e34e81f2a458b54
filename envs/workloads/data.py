"""Where the data files are, on machines that have them."""

import os
from pathlib import Path


def find_data(relative_path: str) -> Path | None:
    """The path of a data file such as `traces/azure_llm_2023/NAME.csv.gz`, or None where it is not there.

    Looks in the folder that the environment variable SERVEGYM_DATA names, and only there, if it is set
    and not empty; else in `../shared/data` relative to the current directory.
    """
    path = Path(os.environ.get("SERVEGYM_DATA") or "../shared/data") / relative_path
    return path if path.exists() else None
