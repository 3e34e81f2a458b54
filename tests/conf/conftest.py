"""The fixture `folder` of the commands' tests."""

from tests.experiments.conftest import folder

__all__ = ["folder"]
