"""`servegym data`, with a small catalogue whose files a server on this machine has."""

import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from servegym.envs.workloads.catalogue import DataFile, Dataset, catalogue
from servegym.experiments import data
from servegym.experiments.cli import main
from tests.experiments.commands import answer_of, error_of

CONTENT = b"arrived_at,num_prefill_tokens,num_decode_tokens\n0,10,2\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def small_catalogue(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The folder that the server serves; dataset `small` has two files, `other` one."""
    served = tmp_path_factory.mktemp("served")
    for name in ("a.csv", "b.csv", "c.csv"):
        (served / name).write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"

    def dataset(name: str, *files: str) -> Dataset:
        digest = hashlib.sha256(CONTENT).hexdigest()
        entries = (DataFile(f"traces/{file}.gz", f"{url}/{file}", len(CONTENT), digest) for file in files)
        return Dataset(name, f"what {name} is", "CC0-1.0", "https://example.org", "", tuple(entries))

    datasets = {"small": dataset("small", "a.csv", "b.csv"), "other": dataset("other", "c.csv")}
    monkeypatch.setattr(data, "catalogue", lambda: datasets)
    monkeypatch.setattr("servegym.envs.workloads.catalogue.catalogue", lambda: datasets)
    monkeypatch.setenv("SERVEGYM_DATA", "here")
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def states(answer: dict[str, object], name: str) -> list[str]:
    files = answer["datasets"][name]["files"]  # type: ignore[index]
    return [file["state"] for file in files.values()]


def test_list_names_every_dataset_with_its_licence(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "data", "list")
    assert set(answer["datasets"]) == set(catalogue())
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    for name, dataset in catalogue().items():
        assert name in shown and dataset.licence in shown
    assert list(folder.iterdir()) == []


def test_fetched_files_are_found_verified_and_not_fetched_again(
    capsys: pytest.CaptureFixture[str], folder: Path, small_catalogue: Path
) -> None:
    assert states(answer_of(capsys, "data", "list"), "small") == ["absent", "absent"]
    assert main(["data", "fetch", "names=[small]", "--json"]) == 0
    captured = capsys.readouterr()
    assert "small: licence CC0-1.0, https://example.org" in captured.err
    assert '"fetched"' in captured.out
    assert states(answer_of(capsys, "data", "list"), "small") == ["here", "here"]
    assert states(answer_of(capsys, "data", "list"), "other") == ["absent"]
    for name in ("a.csv", "b.csv"):
        (small_catalogue / name).unlink()
    assert states(answer_of(capsys, "data", "fetch", "names=[small]"), "small") == ["here", "here"]
    assert states(answer_of(capsys, "data", "verify"), "small") == ["verified", "verified"]


def test_the_licence_is_shown_before_anything_is_fetched(
    capsys: pytest.CaptureFixture[str], folder: Path, small_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(data, "fetch", lambda *_, **__: seen.append(capsys.readouterr().err))
    assert main(["data", "fetch", "names=[small]"]) == 0
    assert "licence CC0-1.0" in seen[0]


def test_verify_names_the_bad_files_and_fails(
    capsys: pytest.CaptureFixture[str], folder: Path, small_catalogue: Path
) -> None:
    assert main(["data", "fetch", "names=[small,other]"]) == 0
    broken = folder / "here/traces/a.csv.gz"
    broken.write_bytes(broken.read_bytes()[:-9])
    message = error_of(capsys, "data", "verify")
    assert "1 files are not as published: here/traces/a.csv.gz: cannot be read" in message
    assert "b.csv" not in message
    assert states(answer_of(capsys, "data", "verify", "names=[other]"), "other") == ["verified"]
    answer = answer_of(capsys, "data", "fetch", "names=[small]")
    assert states(answer, "small") == ["fetched", "here"]
    assert main(["data", "verify"]) == 0


def test_another_folder(capsys: pytest.CaptureFixture[str], folder: Path, small_catalogue: Path) -> None:
    answer = answer_of(capsys, "data", "fetch", "names=[other]", "folder=there")
    assert answer["datasets"]["other"]["files"]["traces/c.csv.gz"]["at"] == "there/traces/c.csv.gz"
    assert (folder / "there/traces/c.csv.gz").is_file()


@pytest.mark.parametrize(
    "words, message",
    [
        (["buy"], "data buy: must be one of list, fetch, verify"),
        (["fetch"], "names is null: fetch wants names=[...] of small, other"),
        (["list", "names=[smal]"], "dataset is 'smal', allowed: small, other"),
        (["fetch", "names=[small]", "attempts=0"], "attempts = 0: must be at least 1"),
        (["fetch", "names=[small]", "timeout_s=0"], "timeout_s = 0.0: must be positive"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], folder: Path, small_catalogue: Path, words: list[str], message: str
) -> None:
    assert message in error_of(capsys, "data", *words)


def test_a_file_that_the_server_lacks_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, small_catalogue: Path
) -> None:
    (small_catalogue / "c.csv").unlink()
    assert main(["data", "fetch", "names=[other]"]) == 2
    assert "the server answers 404" in capsys.readouterr().err.splitlines()[-1]
    assert not (folder / "here/traces/c.csv.gz").exists()
