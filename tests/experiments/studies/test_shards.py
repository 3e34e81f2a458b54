"""Shards: what a worker writes, and when it counts as written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from servegym.envs.metrics import MEASURES, summarise
from servegym.envs.scenario.compose import compose_scenario
from servegym.experiments.simulate import requests_table
from servegym.experiments.studies.episodes import Episodes
from servegym.experiments.studies.latency_histogram import LatencyHistogram
from servegym.experiments.studies.shards import (
    Shard,
    is_complete,
    read_histograms,
    remove_partial_files,
    shards_of,
    write_shard,
)
from servegym.experiments.studies.study_config import StudyConfig
from tests.experiments.commands import SMALL_SCENARIO

SHARD = Shard(3, 6, 8)

IMPATIENT = (
    "scenario.workload.clients.cancel_share=0.5",
    "scenario.workload.clients.mean_patience_s=0.3",
)


def settings_of(*words: str, **settings: object) -> StudyConfig:
    """A study of tiny episodes; words change its scenario."""
    scenario = compose_scenario("generated_8xh100", (*SMALL_SCENARIO[1:], *words))
    known = {"scenario": scenario, "router": {"name": "random"}, "episode_requests": 40}
    return StudyConfig(**{**known, **settings})  # type: ignore[arg-type]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with one shard, whose clients sometimes give up."""
    episodes = Episodes(settings_of(*IMPATIENT))
    write_shard(episodes, SHARD, tmp_path, lambda _: None)
    return tmp_path


def test_requests_are_those_of_simulate_and_the_episode(written: Path) -> None:
    episodes = Episodes(settings_of(*IMPATIENT))
    file = pq.ParquetFile(SHARD.path(written, "requests"))
    assert file.metadata.num_row_groups == 2
    outcomes = set()
    for group, episode in enumerate(range(SHARD.first, SHARD.stop)):
        table = file.read_row_group(group)
        assert set(table["episode"].to_pylist()) == {episode}
        expected = requests_table(episodes.simulate(episode)[0])
        assert set(table.column_names) == {"episode", *expected.column_names}
        for name in expected.column_names:
            assert table[name].to_pylist() == expected[name].to_pylist()
        outcomes |= set(table["outcome"].to_pylist())
    assert outcomes == {"finished", "cancelled"}


def test_episodes_and_histograms_are_those_of_the_results(written: Path) -> None:
    episodes = Episodes(settings_of(*IMPATIENT))
    rows = pq.read_table(SHARD.path(written, "episodes")).to_pylist()
    assert [row.pop("episode") for row in rows] == [6, 7]
    played = [episodes.simulate(episode) for episode in (6, 7)]
    assert rows == [summarise(results, limits) for results, limits in played]
    for name, histogram in read_histograms(SHARD.path(written, "latencies")).items():
        measure = MEASURES[name][0]
        values = np.concatenate([measure(results)[results.finished] for results, _ in played])
        expected = LatencyHistogram.of(values)
        np.testing.assert_array_equal(histogram.bins, expected.bins)
        np.testing.assert_array_equal(histogram.counts, expected.counts)


def test_without_requests_there_is_no_file_of_them(tmp_path: Path) -> None:
    done: list[int] = []
    write_shard(Episodes(settings_of(keep="episodes")), SHARD, tmp_path, done.append)
    assert done == [1, 2]
    assert not (tmp_path / "requests").exists()
    assert is_complete(SHARD, tmp_path, "episodes")
    assert not is_complete(SHARD, tmp_path, "requests")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def of_another_shard(path: Path) -> None:
    other = Shard(3, 4, 6)
    write_shard(Episodes(settings_of()), other, path.parents[1], lambda _: None)


def without_its_last_episode(path: Path) -> None:
    table = pq.ParquetFile(path).read_row_group(0)
    pq.write_table(table, path)


@pytest.mark.parametrize(
    "damage, what",
    [
        *(
            (damage, what)
            for damage in (Path.unlink, cut_off)
            for what in ("requests", "latencies", "episodes")
        ),
        (lambda path: path.write_bytes(b""), "requests"),
        (lambda path: path.write_bytes(b"PAR1" + bytes(100) + b"PAR1"), "requests"),
        (without_its_last_episode, "requests"),
        (of_another_shard, "episodes"),
    ],
)
def test_damaged_files_are_as_good_as_none(written: Path, damage: Callable[[Path], None], what: str) -> None:
    assert is_complete(SHARD, written, "requests")
    damage(SHARD.path(written, what))
    assert not is_complete(SHARD, written, "requests")


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        write_shard(Episodes(settings_of()), SHARD, tmp_path, fail)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_partial_files_of_killed_workers_are_removed(written: Path) -> None:
    whole = set(written.rglob("*"))
    (written / "requests" / ".shard-000001.parquet-ab12").touch()
    remove_partial_files(written)
    assert set(written.rglob("*")) == whole


@pytest.mark.parametrize(
    "settings, sizes",
    [
        ({"episodes": 7, "shard_episodes": 3}, [3, 3, 1]),
        ({"episodes": 2}, [1, 1]),  # at least 64 shards, where there are as many episodes
        ({"episodes": 130}, [2] * 65),
        ({"episodes": 200, "episode_requests": 500_000}, [2] * 100),  # a million requests
        ({"episodes": 3, "episode_requests": 5_000_000}, [1, 1, 1]),
    ],
)
def test_every_episode_is_in_one_shard(settings: dict[str, int], sizes: list[int]) -> None:
    shards = shards_of(settings_of(**settings))
    assert [shard.num_episodes for shard in shards] == sizes
    assert [shard.number for shard in shards] == list(range(len(sizes)))
    episodes = [episode for shard in shards for episode in range(shard.first, shard.stop)]
    assert episodes == list(range(settings["episodes"]))
