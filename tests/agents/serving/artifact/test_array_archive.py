"""Archives hold the arrays that are due and nothing else, and are refused before anything is allocated."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from servegym.agents.serving.artifact.array_archive import read_arrays, write_arrays
from servegym.costmodels.errors import InputError
from tests.agents.serving.artifact.mutations import header, npy

DUE = {"a": (2, 3), "b.weight": (4,), "c": ()}
ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.full(4, np.inf, np.float32),
    "c": np.array(7.0, np.float32),
}


def archive(**changed: bytes) -> bytes:
    """The sound archive with members in other bytes, or with further ones; by `a`, or by `a.npy` itself."""
    members = {f"{name}.npy": npy(array) for name, array in ARRAYS.items()} | changed
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members.items():
            out.writestr(name, content)
    return file.getvalue()


def test_what_is_written_is_read() -> None:
    for content in (write_arrays(ARRAYS), archive()):
        found = read_arrays(content, DUE, "here")
        assert list(found) == list(DUE)
        for name, array in ARRAYS.items():
            assert found[name].dtype == np.float32
            assert found[name].shape == DUE[name]
            assert np.array_equal(found[name], array)
    assert write_arrays(ARRAYS) == write_arrays(ARRAYS)


@pytest.mark.parametrize(
    "content",
    [
        npy(ARRAYS["a"].astype(np.float64)),
        npy(ARRAYS["a"].astype(">f4")),
        npy(ARRAYS["a"].T),
        npy(ARRAYS["a"], fortran=True),
        npy(ARRAYS["a"][:1]),
        npy(ARRAYS["a"]) + b"\0",
        npy(ARRAYS["a"])[:-1],
        header((10**9, 10**9)) + ARRAYS["a"].tobytes(),
        header((2, 3), "'|O'") + pickle.dumps(ARRAYS["a"])[:24],
        b"",
    ],
    ids=str,
)
def test_other_arrays_are_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^here: a: "):
        read_arrays(archive(**{"a.npy": content}), DUE, "here")


@pytest.mark.parametrize("name", ["d.npy", "../a.npy", "/a.npy", "a.pkl", "a", "A.npy"])
def test_other_members_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"^here: must hold 3 arrays; missing or too many: "):
        read_arrays(archive(**{name: npy(ARRAYS["c"])}), DUE, "here")


def test_a_missing_array_is_named() -> None:
    with pytest.raises(InputError, match="'d.npy'"):
        read_arrays(archive(), DUE | {"d": (1,)}, "here")


def test_a_bomb_is_refused_unopened() -> None:
    """A gigabyte of zeros in a megabyte is larger than the arrays due, and so is any number of members."""
    bomb = archive(**{"a.npy": bytes(1 << 28)})
    assert len(bomb) < 1 << 20
    with pytest.raises(InputError, match=r"arrays take \d+ at most"):
        read_arrays(bomb, DUE, "here")
    small = archive(**{"a.npy": bytes(100_000)})
    with pytest.raises(InputError, match="here: a: 100000 bytes; must be 152"):
        read_arrays(small, DUE, "here")


@pytest.mark.parametrize("content", [b"", b"PK", bytes(100), archive()[:-30], pickle.dumps({"a": 1})])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="^here: not a readable archive of arrays: "):
        read_arrays(content, DUE, "here")
