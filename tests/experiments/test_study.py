"""`servegym study`: what it says is what its episodes say, and the same command goes on with it."""

import fcntl
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from scipy.stats import ttest_1samp

from servegym.experiments.cli import main
from servegym.experiments.studies.latency_histogram import RELATIVE_ERROR
from tests.experiments.commands import answer_of, error_of
from tests.experiments.studies.made_up_studies import SMALL_STUDY, contents

STUDY = ("study", *SMALL_STUDY, "workers=1", "out=a")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(STUDY) == 0
    return folder / "a"


@pytest.fixture
def done(folder: Path, finished: Path) -> Path:
    """A copy of it in the current directory."""
    return Path(shutil.copytree(finished, folder / "a"))


def test_answer_is_what_the_files_say(capsys: pytest.CaptureFixture[str], done: Path) -> None:
    answer = answer_of(capsys, *STUDY)
    assert (answer.pop("out"), answer.pop("shards"), answer.pop("shards_simulated")) == ("a", 3, 0)
    assert json.loads((done / "metrics.json").read_text()) == answer
    requests = pyarrow.dataset.dataset(done / "requests").to_table()
    episodes = pq.read_table(done / "episodes.parquet")
    assert episodes["episode"].to_pylist() == [0, 1, 2, 3, 4]
    assert answer["counts"]["num_requests"] == answer["counts"]["num_finished"] == requests.num_rows == 200
    for name, latency in answer["latencies"].items():
        values = requests[name].drop_null().to_numpy()
        assert latency.pop("num_values") == len(values)
        for key, value in latency.items():
            exact = np.percentile(values, float(key[1:]), method="inverted_cdf")
            assert value == pytest.approx(exact, rel=RELATIVE_ERROR)
    ttft_s = episodes["mean_ttft_s"].to_numpy()
    assert answer["metrics"]["mean_ttft_s"] == pytest.approx(ttft_s.mean())
    interval = ttest_1samp(ttft_s, 0).confidence_interval(0.95)
    assert answer["intervals"]["mean_ttft_s"] == pytest.approx([interval.low, interval.high])


def test_the_same_command_does_what_is_missing(capsys: pytest.CaptureFixture[str], done: Path) -> None:
    before = contents(done)
    (done / "requests" / "shard-000001.parquet").write_bytes(b"PAR1")
    kept = (done / "requests" / "shard-000000.parquet").stat().st_mtime_ns
    assert answer_of(capsys, *STUDY)["shards_simulated"] == 1
    assert contents(done) == before
    assert (done / "requests" / "shard-000000.parquet").stat().st_mtime_ns == kept
    assert (done / "command.txt").read_text() == 2 * f"servegym {' '.join(STUDY)}\n"
    assert json.loads((done / "provenance.json").read_text())["workload_source"].startswith("generator")
    assert "numpy==" in (done / "packages.txt").read_text() and (done / "code.diff").is_file()


@pytest.mark.parametrize(
    "words, keys",
    [
        (("seed=1", "router=jsq"), "router.name, seed"),
        (("episode_requests=41",), "episode_requests"),
        (("scenario.fleet.replicas=3",), "scenario.fleet.replicas"),
        (("keep=episodes",), "keep"),
    ],
)
def test_another_study_is_refused(
    capsys: pytest.CaptureFixture[str], done: Path, words: tuple[str, ...], keys: str
) -> None:
    said = error_of(capsys, *STUDY, *words)
    assert said.startswith("out = ") and "holds another study, which differs in " in said
    assert set(keys.split(", ")) <= set(said.partition("differs in ")[2].partition(";")[0].split(", "))


def test_a_study_by_other_versions_is_another_study(capsys: pytest.CaptureFixture[str], done: Path) -> None:
    path = done / "provenance.json"
    path.write_text(path.read_text().replace('"numba": "', '"numba": "1'))
    assert "which differs in versions.numba; choose" in error_of(capsys, *STUDY)


def test_where_it_is_simulated_does_not_matter(capsys: pytest.CaptureFixture[str], done: Path) -> None:
    done.rename(done.with_name("b"))
    assert answer_of(capsys, *STUDY, "workers=3", "out=b")["shards_simulated"] == 0


def test_one_folder_one_study(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "notes.txt").touch()
    assert "exists and is no study; must be a new folder or a study's" in error_of(capsys, *STUDY)


def test_a_start_that_was_killed_is_begun_again(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "a").mkdir()
    for name in ("study.lock", "command.txt", "code.diff", ".packages.txt-ab12"):
        (folder / "a" / name).touch()
    assert answer_of(capsys, *STUDY)["shards_simulated"] == 3


def test_two_at_once_are_refused(capsys: pytest.CaptureFixture[str], done: Path) -> None:
    with (done / "study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(STUDY) == 2
    assert "another servegym study works there" in capsys.readouterr().err
    assert (done / "command.txt").read_text().count("\n") == 1


@pytest.mark.parametrize(
    "word, said",
    [
        ("episodes=0", "episodes = 0: must be at least 1"),
        ("workers=0", "workers = 0: must be at least 1"),
        ("keep=nothing", "keep = nothing: must be one of requests, episodes"),
        ("backend=spark", "backend = spark: must be one of local, ray"),
        ("split=all", "split = all: must be one of train, test"),
        ("address=auto", "address = auto: must be null but for backend=ray"),
        ("router=llm_d", "router llm_d needs an engine with a prefix cache: the scenario has none"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], folder: Path, word: str, said: str) -> None:
    assert said in error_of(capsys, *STUDY, word)


def test_a_cluster_that_does_not_answer(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    pytest.importorskip("ray")
    said = error_of(capsys, *STUDY, "backend=ray", "address=127.0.0.1:1")
    assert said.startswith("address = 127.0.0.1:1: cannot be reached (")


def test_table_for_people(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main([*STUDY, "keep=episodes"]) == 0
    shown = capsys.readouterr()
    assert "random on generated_8xh100, 200 requests in 5 episodes" in shown.out
    assert "ttft_s" in shown.out and "95% interval" in shown.out
    assert "3 of 3 shards simulated now" in shown.out
    assert shown.err == ""
