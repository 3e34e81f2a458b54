"""Against a server on this machine that does what servers do wrong."""

import gzip
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.catalogue import DataFile, catalogue
from servegym.envs.workloads.download import check, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `faults` are used up, one a request, then it behaves. `ranges`: what was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.ranges, self.heeds_range, self.states_length = [], [], True, True
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"
        self.released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.heeds_range else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "more":
            body += b"more"
        self.send_response(206 if asked and server.heeds_range else 200)
        if asked and server.heeds_range:
            shift = 1 if fault == "other range" else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if server.states_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "truncate":
            body = body[:100_000]
        if fault == "stall":
            self.wfile.write(body[:100_000])
            self.wfile.flush()
            server.released.wait(10)
            return
        self.wfile.write(body)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def published(server, path="a/b/file.bin", content=CONTENT):
    return DataFile(path, server.url, len(content), hashlib.sha256(content).hexdigest())


def run(file, folder, **options):
    settings = {"progress": lambda have, total: None, "timeout_s": 0.3, "attempts": 3, "backoff_s": 0.001}
    return fetch(file, folder, **(settings | options))


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_whole_file_appears_with_its_progress_and_nothing_else(server, tmp_path):
    seen = []
    path = run(published(server), tmp_path, progress=lambda have, total: seen.append((have, total)))
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    assert check(published(server), path) is None


def test_a_name_in_gz_is_kept_compressed_and_checked_by_its_content(server, tmp_path):
    path = run(published(server, "file.bin.gz"), tmp_path)
    assert gzip.decompress(path.read_bytes()) == CONTENT
    assert check(published(server, "file.bin.gz"), path) is None
    first = path.read_bytes()
    assert run(published(server, "file.bin.gz"), tmp_path).read_bytes() == first
    path.write_bytes(first[:1000])
    assert "cannot be read" in check(published(server, "file.bin.gz"), path)


@pytest.mark.parametrize("fault", ["truncate", "stall"])
def test_what_broke_off_is_resumed_where_it_ended(server, tmp_path, fault):
    server.faults = [fault, fault]
    started = time.monotonic()
    assert run(published(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert time.monotonic() - started < 8
    assert names(tmp_path) == ["file.bin"]


def test_a_later_call_goes_on_and_until_then_nothing_passes_as_whole(server, tmp_path):
    server.faults = ["truncate"]
    with pytest.raises(InputError, match="connection closed after 100000 of 300000 bytes, after 1 attempts"):
        run(published(server), tmp_path, attempts=1)
    assert not (tmp_path / "a/b/file.bin").exists()
    assert [name.endswith(".partial") for name in names(tmp_path)] == [True]
    run(published(server), tmp_path)
    assert server.ranges == [None, "bytes=100000-"]
    assert names(tmp_path) == ["file.bin"]


def test_a_server_that_ignores_ranges_sends_all_again(server, tmp_path):
    server.faults, server.heeds_range = ["truncate", "truncate"], False
    assert run(published(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]


@pytest.mark.parametrize(
    "faults", [["corrupt"], ["more"], ["truncate", "corrupt"], ["truncate", "other range"]]
)
def test_wrong_bytes_are_thrown_away_and_fetched_anew(server, tmp_path, faults):
    server.faults = faults
    assert run(published(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] is None
    assert names(tmp_path) == ["file.bin"]


def test_a_file_that_stays_wrong_leaves_nothing_and_keeps_an_earlier_one(server, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file.bin").write_bytes(b"earlier")
    server.faults = ["corrupt"] * 3
    with pytest.raises(InputError, match="SHA-256 is .* after 3 attempts"):
        run(published(server), tmp_path)
    assert names(tmp_path) == ["file.bin"]
    assert (tmp_path / "a/b/file.bin").read_bytes() == b"earlier"


def test_another_file_of_the_same_name_is_not_resumed(server, tmp_path):
    server.faults = ["truncate"]
    old = DataFile("a/b/file.bin", server.url, len(CONTENT), hashlib.sha256(b"old").hexdigest())
    with pytest.raises(InputError):
        run(old, tmp_path, attempts=1)
    run(published(server), tmp_path)
    assert server.ranges == [None, None]


def test_a_shorter_file_than_published_ends_in_an_error(server, tmp_path):
    file = DataFile("file.bin", server.url, len(CONTENT) + 1, hashlib.sha256(CONTENT + b"x").hexdigest())
    with pytest.raises(InputError, match="after 4 attempts"):
        run(file, tmp_path, attempts=4)
    assert not (tmp_path / "file.bin").exists()


def test_busy_servers_are_asked_again_and_refusals_end_at_once(server, tmp_path):
    server.faults = [503, 429]
    assert run(published(server), tmp_path).read_bytes() == CONTENT
    server.faults = [404]
    with pytest.raises(InputError, match="the server answers 404 .*, allowed: 200 or 206"):
        run(published(server, "other.bin"), tmp_path)
    assert len(server.ranges) == 4


def test_pauses_grow(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("servegym.envs.workloads.download.time.sleep", pauses.append)
    server.faults = [500] * 4
    with pytest.raises(InputError, match="the server answers 500"):
        run(published(server), tmp_path, attempts=4, backoff_s=0.5)
    assert pauses == [0.5, 1.0, 2.0]


def test_without_checksum_the_stated_length_decides_and_nothing_is_resumed(server, tmp_path):
    file = DataFile("file.bin", server.url, None, None)
    server.faults = ["truncate"]
    assert run(file, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, None]
    server.states_length = False
    with pytest.raises(InputError, match="neither its size nor its checksum is known"):
        run(file, tmp_path)


def test_no_server_and_no_folder(server, tmp_path):
    nowhere = DataFile("file.bin", "http://127.0.0.1:9/file.bin", 1, "0" * 64)
    with pytest.raises(InputError, match="no answer .*refused.*, after 2 attempts"):
        run(nowhere, tmp_path, attempts=2)
    (tmp_path / "a").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="cannot be written"):
        run(published(server), tmp_path)


def test_check_says_what_is_wrong(server, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT[:-1])
    assert check(published(server), path) == "299999 bytes, allowed: 300000"
    path.write_bytes(CONTENT[:-1] + b"x")
    assert check(published(server), path).startswith("SHA-256 is ")


def test_the_catalogue_is_well_formed():
    paths = [file.path for dataset in catalogue().values() for file in dataset.files]
    assert len(paths) == len(set(paths)) > 30
    for dataset in catalogue().values():
        assert dataset.files and dataset.licence and dataset.what and dataset.source.startswith("https://")
        for file in dataset.files:
            assert file.url.startswith("https://") and not file.path.startswith("/") and ".." not in file.path
            assert file.path.removesuffix(".gz").rsplit(".", 1)[-1] == file.url.rsplit(".", 1)[-1]
            assert (file.size is None) == (file.sha256 is None)
            assert file.sha256 is None or (len(file.sha256) == 64 and int(file.sha256, 16))
            if "githubusercontent" in file.url:
                commit = file.url.split("/")[5]
                assert len(commit) == 40 and int(commit, 16)


def test_the_catalogue_describes_the_files_that_are_there(real_data):
    for dataset in ("mooncake_fast25", "azure_llm_2023"):
        file = catalogue()[dataset].files[0]
        assert check(file, real_data(file.path)) is None
