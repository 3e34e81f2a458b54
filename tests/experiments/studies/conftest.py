"""A study that nobody disturbed."""

import pytest

from servegym.experiments.cli import main
from tests.experiments.studies.made_up_studies import LONGER_STUDY, contents


@pytest.fixture(scope="package")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What it wrote, by path."""
    out = tmp_path_factory.mktemp("undisturbed") / "study"
    assert main(["study", *LONGER_STUDY, f"out={out}"]) == 0
    return contents(out)
