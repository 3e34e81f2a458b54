"""The examples in docstrings run and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("costmodels", "envs", "agents", "experiments")


def modules() -> list[str]:
    """Every module of the project."""
    names = []
    for package in PACKAGES:
        folder = importlib.import_module(f"servegym.{package}").__path__
        names += [module.name for module in pkgutil.walk_packages(folder, f"servegym.{package}.")]
    return names


def test_examples_run() -> None:
    """All doctests pass, and the examples known to exist are among them."""
    attempted = {}
    for name in modules():
        result = doctest.testmod(importlib.import_module(name))
        assert result.failed == 0, name
        attempted[name] = result.attempted
    assert attempted["servegym.envs.routing.reward"] >= 3
    assert attempted["servegym.envs.routing.env"] >= 6


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str) -> None:
    for name in modules():
        if name.startswith(f"servegym.{package}"):
            assert (importlib.import_module(name).__doc__ or "").strip(), f"{name} has no docstring"
