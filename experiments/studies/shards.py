"""Shards: ranges of episodes, each simulated by one worker and written by it, whole or not at all.

requests/shard-000123.parquet    a row per request, a row group per episode (with keep=requests)
latencies/shard-000123.parquet   its histograms
episodes/shard-000123.parquet    a row of metrics per episode; written last
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from servegym.costmodels.output_file import output_file
from servegym.envs.metrics import MEASURES, summarise
from servegym.experiments.studies import requests_table
from servegym.experiments.studies.episodes import Episodes
from servegym.experiments.studies.latency_histogram import LatencyHistogram
from servegym.experiments.studies.study_config import StudyConfig

REQUESTS, LATENCIES, EPISODES = "requests", "latencies", "episodes"
FOLDERS = (REQUESTS, LATENCIES, EPISODES)

LATENCIES_SCHEMA = pa.schema([("measure", pa.string()), ("bin", pa.int64()), ("count", pa.int64())])


class Shard(NamedTuple):
    """Episodes `first` to `stop` - 1 of a study, its shard number `number`."""

    number: int
    first: int
    stop: int

    @property
    def num_episodes(self) -> int:
        """How many."""
        return self.stop - self.first

    def __str__(self) -> str:
        return f"shard {self.number} (episodes {self.first} to {self.stop - 1})"

    def path(self, out: Path, what: str) -> Path:
        """Its file in one of FOLDERS."""
        return out / what / f"shard-{self.number:06}.parquet"


def shards_of(settings: StudyConfig) -> list[Shard]:
    """All shards of a study, in order."""
    size = settings.episodes_in_shard
    starts = range(0, settings.episodes, size)
    return [Shard(i, start, min(start + size, settings.episodes)) for i, start in enumerate(starts)]


def write_shard(episodes: Episodes, shard: Shard, out: Path, report: Callable[[int], None]) -> None:
    """Simulates a shard and writes its files; memory is that of one episode.

    report: called after every episode with how many are done.
    """
    rows: list[dict[str, Any]] = []
    histograms = {name: LatencyHistogram.total([]) for name in MEASURES}
    with contextlib.ExitStack() as stack:
        writer = None
        if episodes.settings.keep == "requests":
            file = stack.enter_context(output_file(shard.path(out, REQUESTS)))
            writer = stack.enter_context(
                pq.ParquetWriter(file, requests_table.SCHEMA, **requests_table.WRITING)
            )
        for episode in range(shard.first, shard.stop):
            results, limits = episodes.simulate(episode)
            measured = {name: measure(results) for name, (measure, _) in MEASURES.items()}
            rows.append({"episode": episode, **summarise(results, limits)})
            for name, values in measured.items():
                part = LatencyHistogram.of(values[results.finished])
                histograms[name] = LatencyHistogram.total([histograms[name], part])
            if writer is not None:
                batch = requests_table.as_rows(episode, results, measured)
                writer.write_batch(batch, row_group_size=max(1, batch.num_rows))
            report(episode + 1 - shard.first)
    write_table(shard.path(out, LATENCIES), histograms_table(histograms))
    write_table(shard.path(out, EPISODES), _episodes_table(rows))


def is_complete(shard: Shard, out: Path, keep: str) -> bool:
    """Whether all files of a shard are there, to their ends, and hold as many episodes and requests."""
    try:
        episodes = pq.read_table(shard.path(out, EPISODES))
        pq.read_table(shard.path(out, LATENCIES))
        if keep == "requests":
            requests = pq.read_metadata(shard.path(out, REQUESTS))
            num_requests = int(np.sum(episodes["num_requests"].to_numpy()))
            if (requests.num_row_groups, requests.num_rows) != (shard.num_episodes, num_requests):
                return False
    except (OSError, KeyError, pa.ArrowException):
        return False
    return bool(np.array_equal(episodes["episode"].to_numpy(), np.arange(shard.first, shard.stop)))


def remove_partial_files(out: Path) -> None:
    """Removes what workers that were killed had begun to write."""
    for what in FOLDERS:
        for path in (out / what).glob(".shard-*"):
            path.unlink(missing_ok=True)


def histograms_table(histograms: dict[str, LatencyHistogram]) -> pa.Table:
    """Histograms of MEASURES by name, as rows of LATENCIES_SCHEMA."""
    parts = [
        pa.table(
            {"measure": [name] * len(histogram.bins), "bin": histogram.bins, "count": histogram.counts},
            schema=LATENCIES_SCHEMA,
        )
        for name, histogram in histograms.items()
    ]
    return pa.concat_tables(parts)


def read_histograms(path: Path) -> dict[str, LatencyHistogram]:
    """What `histograms_table` was written from."""
    table = pq.read_table(path)
    measure, bins, counts = (table[name].to_numpy() for name in LATENCIES_SCHEMA.names)
    return {name: LatencyHistogram(bins[measure == name], counts[measure == name]) for name in MEASURES}


def write_table(path: Path, table: pa.Table) -> None:
    """A Parquet file that is there whole or not at all."""
    with output_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def _episodes_table(rows: list[dict[str, Any]]) -> pa.Table:
    """A row per episode: its number, counts as whole numbers, and metrics, null where there is none."""
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return pa.table(
        {
            name: pa.array(
                column.astype(np.int64) if name.startswith("num_") else column,
                pa.int32() if name == "episode" else None,
                from_pandas=True,
            )
            for name, column in columns.items()
        }
    )
