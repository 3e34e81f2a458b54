"""`servegym replay`: the same simulation again, with its iterations."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from servegym.envs.sim.llm.log import IterationLog
from servegym.experiments.cli import main
from tests.experiments.commands import SMALL_SCENARIO, SMALL_SCENARIO_OF, answer_of, error_of


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A simulation on disk, with settings that are not the scenario's own."""
    changed = ("router=random", "seed=3", "scenario.engine.num_kv_blocks=900")
    answer_of(capsys, "simulate", *SMALL_SCENARIO, *changed, "out=a/b")
    return "a/b"


def test_trace_and_log_tell_of_the_same_simulation(
    folder: Path, capsys: pytest.CaptureFixture[str], run: str
) -> None:
    answer = answer_of(capsys, "replay", run, "--perfetto", "out/trace.json.gz", "log=out/log.npz")
    requests = pq.read_table(folder / run / "requests.parquet").to_pydict()
    log = IterationLog.load(folder / "out/log.npz")
    assert answer["requests"] == len(requests["replica"])
    assert (answer["router"], answer["scenario"]) == ({"name": "random"}, "generated_8xh100")
    assert answer["max_rel_diff"] < 1e-9
    assert answer["preemptions"] == len(log.preemptions) == sum(requests["preemptions"])
    assert answer["iterations"] == len(log.iterations) and answer["entries"] == len(log.entries)

    starts = np.repeat(log.iterations["start_s"], log.iterations["num_entries"])
    ends = np.repeat(log.iterations["end_s"], log.iterations["num_entries"])
    first_start, last_end = np.full((2, answer["requests"]), np.nan)
    np.fmin.at(first_start, log.entries["request"], starts)
    np.fmax.at(last_end, log.entries["request"], ends)
    np.testing.assert_allclose(first_start, requests["scheduled_s"], rtol=1e-9)
    np.testing.assert_allclose(last_end, requests["finish_s"], rtol=1e-9)
    assert (log.iterations["kv_used_blocks"] <= 900).all()

    events = json.loads(gzip.decompress((folder / "out/trace.json.gz").read_bytes()))["traceEvents"]
    assert len(events) == answer["events"]
    assert sum(event["ph"] == "X" and event["cat"] == "iteration" for event in events) == answer["iterations"]
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {
        "random on generated_8xh100, seed 3"
    }
    assert {path.name for path in (folder / "out").iterdir()} == {"trace.json.gz", "log.npz"}


def test_a_scenario_with_another_engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Chosen by its group; chunks of Sarathi's 512 tokens show in the log."""
    answer_of(
        capsys, "simulate", *SMALL_SCENARIO, "engine@scenario.engine=sarathi", "router=random", "out=run"
    )
    answer = answer_of(capsys, "replay", "run", "--perfetto", "trace.json", "log=log.npz")
    log = IterationLog.load(folder / "log.npz")
    assert answer["max_rel_diff"] < 1e-9
    assert log.iterations["tokens"].max() == 512
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]


def test_the_person_is_told(folder: Path, capsys: pytest.CaptureFixture[str], run: str) -> None:
    assert main(["replay", run, "perfetto=trace.json"]) == 0
    printed = capsys.readouterr().out
    assert "iterations of" in printed and "for ui.perfetto.dev: trace.json" in printed
    assert "Page to open in a browser: a/b/replay.html" in printed


def test_the_page_is_written_to_the_run_or_elsewhere_or_not_at_all(
    folder: Path, capsys: pytest.CaptureFixture[str], run: str
) -> None:
    assert answer_of(capsys, "replay", run, "page=null")["page"] is None
    assert not list(folder.rglob("*.html"))
    assert answer_of(capsys, "replay", run, "page=pages/b.html")["page"] == "pages/b.html"
    assert [path.name for path in folder.rglob("*.html")] == ["b.html"]
    assert answer_of(capsys, "replay", run)["page"] == "a/b/replay.html"
    page = (folder / "a/b/replay.html").read_text()
    assert page == (folder / "pages/b.html").read_text()
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched
    assert "<!--" not in page  # everything is filled in

    answer_of(capsys, "simulate", *SMALL_SCENARIO, "router=jsq", "out=a/b")
    assert not (folder / "a/b/replay.html").exists()  # it was of the simulation that is no longer there


def test_the_page_is_opened_on_demand(
    folder: Path, capsys: pytest.CaptureFixture[str], run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    answer_of(capsys, "replay", run)
    assert opened == []
    answer_of(capsys, "replay", run, "open=true")
    assert opened == [(folder / "a/b/replay.html").as_uri()]
    error = error_of(capsys, "replay", run, "open=true", "page=null")
    assert error == "open = true: needs a page, page is null"


@pytest.mark.parametrize(
    "environment, policy, kind",
    [
        ("servegym/DeferredBatching-v0", "symphony", "batch serving"),
        ("servegym/ElasticSequenceParallel-v0", "loongserve", "elastic sequence parallelism"),
    ],
)
def test_other_kinds_of_serving_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], environment: str, policy: str, kind: str
) -> None:
    answer_of(capsys, "simulate", *SMALL_SCENARIO_OF[environment], f"policy={policy}", "out=run")
    assert error_of(capsys, "replay", "run") == (
        f"run = run: is of {kind}; must be of LLM fleets, which have iterations"
    )


def test_results_of_another_version_are_not_explained_by_this_one(
    folder: Path, capsys: pytest.CaptureFixture[str], run: str
) -> None:
    path = folder / run / "requests.parquet"
    table = pq.read_table(path)
    later = pa.array(pc.multiply(table["finish_s"], 1.001).to_numpy())
    pq.write_table(table.set_column(table.schema.get_field_index("finish_s"), "finish_s", later), path)
    error = error_of(capsys, "replay", run, "--perfetto", "trace.json")
    assert error.startswith("run = a/b: its times differ by up to 0.00")


def test_a_folder_without_a_simulation_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "replay", "nosuch") == (
        "run = nosuch: must be a folder that servegym simulate has written"
    )
    assert "run" in error_of(capsys, "replay")


def test_a_fleet_with_roles_failures_and_impatient_clients(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Iterations stand on the replicas that run them, none while a replica is gone, and all is drawn."""
    words = (
        "scenario.fleet.replicas=null",
        "scenario.fleet.pools=[{replicas:2,role:prefill},{replicas:2,role:decode}]",
        "scenario.fleet.link_bytes_per_s=1e10",
        "scenario.fleet.failures=[{replica:1,time_s:0.5,until_s:1.5}]",
        "scenario.workload.clients.cancel_share=0.5",
        "scenario.workload.clients.mean_patience_s=1",
    )
    answer = answer_of(capsys, "simulate", *SMALL_SCENARIO, *words, "out=run")
    metrics = answer["metrics"]
    assert metrics["num_cancelled"] > 5
    assert metrics["num_requests"] == metrics["num_finished"] + metrics["num_cancelled"] + metrics["num_lost"]
    replayed = answer_of(capsys, "replay", "run", "--perfetto", "trace.json", "log=log.npz")
    assert replayed["max_rel_diff"] < 1e-9
    table = pq.read_table(folder / "run/requests.parquet").to_pydict()
    assert table["outcome"].count("cancelled") == metrics["num_cancelled"]
    assert [seconds is None for seconds in table["latency_s"]] == [
        outcome != "finished" for outcome in table["outcome"]
    ]
    log = IterationLog.load(folder / "log.npz")
    replica = np.repeat(log.iterations["replica"], log.iterations["num_entries"])
    assert set(replica[log.entries["is_prefill"]]) == {0, 1}
    assert set(replica[~log.entries["is_prefill"]]) == {2, 3}
    gone = log.iterations[log.iterations["replica"] == 1]
    assert not ((gone["end_s"] > 0.5) & (gone["start_s"] < 1.5)).any()
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert sum(event["ph"] == "X" and event["cat"] == "arrival" for event in events) > 50
