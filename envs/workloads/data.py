"""Where the data files are, on machines that have them."""

import os
import sys
from pathlib import Path


def find_data(relative_path: str) -> Path | None:
    """The path of a data file such as `traces/azure_llm_2023/NAME.csv.gz`, or None where it is not there.

    Looks in the folder that the environment variable SERVEGYM_DATA names, and only there, if it is set
    and not empty; else in `../shared/data` relative to the current directory, then in the user's own
    folder (`user_folder`).
    """
    named = os.environ.get("SERVEGYM_DATA")
    for folder in (Path(named),) if named else (Path("../shared/data"), user_folder()):
        if (folder / relative_path).exists():
            return folder / relative_path
    return None


def fetch_folder() -> Path:
    """Where files that are fetched are put: SERVEGYM_DATA if it is set and not empty, else `user_folder`."""
    named = os.environ.get("SERVEGYM_DATA")
    return Path(named) if named else user_folder()


def user_folder() -> Path:
    """`servegym` in the user's caches: ~/Library/Caches on macOS, else XDG_CACHE_HOME or ~/.cache."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "servegym"
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))  # the XDG specification: relative paths are ignored
    return (base if base.is_absolute() else Path.home() / ".cache") / "servegym"
