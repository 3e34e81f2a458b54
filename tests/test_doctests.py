"""The examples in docstrings run and give what they say."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

PACKAGES = ("costmodels", "envs", "agents", "experiments")

PLUGINS = "servegym.agents.serving.plugins."
"""These can be imported where the systems are that they plug into (tests/serving)."""


def modules() -> list[str]:
    """Every module of the project but PLUGINS."""
    names = []
    for package in PACKAGES:
        folder = importlib.import_module(f"servegym.{package}").__path__
        names += [module.name for module in pkgutil.walk_packages(folder, f"servegym.{package}.")]
    return [name for name in names if not name.startswith(PLUGINS)]


def imported(name: str) -> ModuleType | None:
    """A module; None for a plugin of a serving system that is not installed (tests/serving imports those)."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name.startswith("servegym.agents.serving.plugins.") and "servegym" not in str(error.name):
            return None
        raise


def test_examples_run() -> None:
    """All doctests pass, and the examples known to exist are among them."""
    attempted = {}
    for name in modules():
        module = imported(name)
        if module is None:
            continue
        result = doctest.testmod(module)
        assert result.failed == 0, name
        attempted[name] = result.attempted
    assert attempted["servegym.envs.routing.reward"] >= 3
    assert attempted["servegym.envs.routing.env"] >= 6


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str) -> None:
    for name in modules():
        if name.startswith(f"servegym.{package}"):
            module = imported(name)
            assert module is None or (module.__doc__ or "").strip(), f"{name} has no docstring"


def test_every_plugin_says_what_it_is() -> None:
    (folder,) = importlib.import_module(PLUGINS.rstrip(".")).__path__
    files = list(Path(folder).rglob("*.py"))
    assert len(files) > 5
    for path in files:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
