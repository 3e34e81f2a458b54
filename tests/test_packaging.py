"""What is installed: every package, its data files, nothing else; and imports that stay light."""

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {name: ROOT / folder for name, folder in PYPROJECT["tool"]["setuptools"]["package-dir"].items()}


def package_files(pattern: str) -> set[str]:
    """The files that match `pattern` in the folders at the top, as they are named once installed."""
    return {
        (Path(*package.split(".")) / path.relative_to(folder)).as_posix()
        for package, folder in FOLDERS.items()
        for path in folder.rglob(pattern)
    }


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare them."""
    return name.lower().replace("_", "-")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from a copy, so that nothing built earlier can leak into it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in [*FOLDERS.values(), ROOT / "tests"]:
        shutil.copytree(folder, source / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    result = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(source / result.stdout.split()[-1]) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_every_folder_with_an_init_is_listed_as_a_package() -> None:
    folders = {name.removesuffix("/__init__.py").replace("/", ".") for name in package_files("__init__.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == folders


def test_every_folder_with_modules_has_an_init() -> None:
    folders = {path.parent for folder in FOLDERS.values() for path in folder.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize(
    "pattern", ["*.py", "py.typed", "*.yaml", "*.c", "*.h", "fitted/*.json", "profiles/*.json"]
)
def test_wheel_holds_all_sources_and_data(wheel: set[str], pattern: str) -> None:
    wanted = package_files(pattern)
    assert wanted
    assert wanted - wheel == set()


def test_wheel_holds_nothing_outside_the_package(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel} == {
        "servegym",
        f"servegym-{PYPROJECT['project']['version']}.dist-info",
    }
    assert "servegym/__init__.py" not in wheel  # a namespace: others may add to it
    assert not any(name.startswith("servegym/tests") for name in wheel)


def test_every_type_checked_package_says_so(wheel: set[str]) -> None:
    typed = {package for package in FOLDERS if package != "servegym.conf"}
    assert {name for name in wheel if name.endswith("py.typed")} == {
        f"{package.replace('.', '/')}/py.typed" for package in typed
    }


def wanted(*extras: str) -> set[str]:
    """Names of what the project and some of its extras ask for, with the extras that these are made of."""
    project = PYPROJECT["project"]
    lines = [line for extra in extras for line in project["optional-dependencies"][extra]]
    asked = [Requirement(line) for line in (*project["dependencies"], *lines)]
    own = [each for each in asked if each.name == project["name"]]
    names = {canonical(each.name) for each in asked if each.name != project["name"]}
    return names.union(*(wanted(*each.extras) for each in own))


def test_constraints_pin_every_requirement() -> None:
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pinned[canonical(name)] = version
    assert {name for name in wanted("dev", "serving") if name not in pinned} == set()
    assert [name for name, version in pinned.items() if "+" in version] == []  # a build of one platform


@pytest.mark.parametrize(
    "module, forbidden",
    [
        ("servegym.envs", ["torch", "numba", "stable_baselines3", "torch_geometric", "hydra", "matplotlib"]),
        (
            "servegym.experiments.cli",
            ["torch", "numba", "stable_baselines3", "torch_geometric", "matplotlib"],
        ),
    ],
)
def test_import_stays_light(module: str, forbidden: list[str], tmp_path: Path) -> None:
    """From an empty directory, so that the folders of the checkout cannot stand in for the installation."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded = json.loads(result.stdout)
    assert module in loaded
    assert [name for name in forbidden if name in loaded] == []
