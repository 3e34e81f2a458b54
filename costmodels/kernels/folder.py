"""Kernel timings from a folder in any layout that there is a reader for."""

from collections.abc import Callable, Mapping
from pathlib import Path

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels import aiconfigurator, vidur
from servegym.costmodels.kernels.llmservingsim import read_layer_profile
from servegym.costmodels.kernels.profiles import MANIFEST, read_profile
from servegym.costmodels.kernels.schema import KernelTimings

_TABLES = "*/*/*/*.parquet"


def read_folder(path: str | Path) -> list[KernelTimings]:
    """All timings of a folder: our own profile, aiconfigurator (all systems or one), LLMServingSim or Vidur.

    Raises InputError that lists the layouts where the folder has none of them; what the readers refuse.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: must be a folder in one of these layouts: {', '.join(_LAYOUTS)}")
    for recognised, read in _LAYOUTS.values():
        if recognised(path):
            return read(path)
    raise InputError(f"{path}: no known layout; must be one of: {', '.join(_LAYOUTS)}")


def _is_profile(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def _is_layer_profile(path: Path) -> bool:
    return any(path.glob("meta.yaml*")) and any(path.glob("tp*/dense.csv*"))


def _read_layer_profile(path: Path) -> list[KernelTimings]:
    degrees = sorted(int(each.name[2:]) for each in path.glob("tp*") if each.name[2:].isdecimal())
    return [each for degree in degrees for each in read_layer_profile(path, degree).timings()]


def _has_systems(path: Path) -> bool:
    return any(path.glob(f"*/{_TABLES}"))


def _read_systems(path: Path) -> list[KernelTimings]:
    return [each for system in aiconfigurator.systems(path) for each in aiconfigurator.read(path, system)]


def _is_system(path: Path) -> bool:
    return any(path.glob(_TABLES))


def _read_system(path: Path) -> list[KernelTimings]:
    path = path.resolve()
    return aiconfigurator.read(path.parent, path.name)


_LAYOUTS: Mapping[str, tuple[Callable[[Path], bool], Callable[[Path], list[KernelTimings]]]] = {
    f"a profile of servegym ({MANIFEST})": (_is_profile, read_profile),
    "LLMServingSim (meta.yaml, tpN/dense.csv)": (_is_layer_profile, _read_layer_profile),
    "aiconfigurator (SYSTEM/GROUP/FRAMEWORK/VERSION/TABLE.parquet)": (_has_systems, _read_systems),
    "one system of it (GROUP/FRAMEWORK/VERSION/TABLE.parquet)": (_is_system, _read_system),
    f"Vidur ({', '.join(vidur.TABLES)}, at any depth)": (vidur.holds_tables, vidur.read),
}
"""By name: whether a folder has it, and its reader."""
