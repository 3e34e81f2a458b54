"""A signature is demanded where a key is given, and is of this key and this policy."""

import shutil
from pathlib import Path

import pytest

from servegym.agents.serving.artifact.load import load_artifact
from servegym.agents.serving.artifact.signature import read_key, sign
from servegym.agents.zoo import ZOO
from servegym.costmodels.errors import InputError

KEY, OTHER = b"k" * 32, b"l" * 32


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(ZOO / "scheduler", tmp_path / "policy")


def test_a_signed_policy_is_loaded_with_its_key_only(copy: Path) -> None:
    with pytest.raises(InputError, match=r"policy\.sig: missing"):
        load_artifact(copy, "numpy", KEY)
    description = copy / "policy.json"
    (copy / "policy.sig").write_text(sign(description.read_bytes(), KEY))
    load_artifact(copy, "numpy", KEY)
    load_artifact(copy, "numpy")
    with pytest.raises(InputError, match="not of this key"):
        load_artifact(copy, "numpy", OTHER)
    description.write_text(description.read_text() + " ")
    with pytest.raises(InputError, match="not of this key"):
        load_artifact(copy, "numpy", KEY)


def test_keys_are_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"0" * 64 + b"\n")
    assert read_key(path) == b"0" * 64
    path.write_bytes(b"short\n")
    with pytest.raises(InputError, match="5 bytes; must be 32 to 4096"):
        read_key(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_key(tmp_path / "none")
