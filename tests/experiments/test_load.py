"""`servegym load` as a command: the requests of a simulation, what it writes, what it refuses."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegym.experiments.cli import main
from tests.experiments.commands import SMALL_SCENARIO, answer_of, error_of

pytestmark = pytest.mark.compiled

QUICK = (*SMALL_SCENARIO, "requests=20", "time_scale=0.1")


def test_sends_the_requests_that_simulate_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = answer_of(capsys, "load", *QUICK, "seed=3", "out=load")
    answer_of(capsys, "simulate", *SMALL_SCENARIO, "router=round_robin", "seed=3", "out=simulated")
    sent, simulated = (pq.read_table(f"{name}/requests.parquet") for name in ("load", "simulated"))
    assert sent.num_rows == 20 < simulated.num_rows
    for name in ("prompt_tokens", "output_tokens", "replica", "outcome"):
        assert sent.column(name).to_pylist() == simulated.column(name).to_pylist()[:20]
    assert sent.column("arrival_s").to_pylist() == pytest.approx(
        simulated.column("arrival_s").to_pylist()[:20]
    )
    metrics = answer["metrics"]
    assert (metrics["num_requests"], metrics["num_finished"], metrics["num_lost"]) == (20, 20, 0)
    for name in ("ttft_s", "tpot_s", "latency_s", "send_delay_s"):
        assert 0 < metrics[f"p50_{name}"] <= metrics[f"p99_{name}"]
        assert f"mean_{name}" in metrics
    assert answer["finished_per_replica"] == {"0": 10, "1": 10}
    written = json.loads(Path("load/summary.json").read_text())
    assert written == {key: value for key, value in answer.items() if key != "out"}
    assert Path("load/command.txt").read_text().startswith("servegym load scenario=generated_8xh100")


def test_shows_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", *QUICK, "requests=4", "api=chat"]) == 0
    printed = capsys.readouterr().out
    assert "p99_ttft_s" in printed and "workers of its own" in " ".join(printed.split())
    assert len(list(Path("runs/load").iterdir())) == 1


def test_bad_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        return error_of(capsys, "load", *QUICK, *words)

    assert "target = http://127.0.0.1:1: cannot be reached" in said("target=http://127.0.0.1:1")
    assert "target = here: must be an address" in said("target=here")
    assert "target = [5]: must be an address or a list" in said("target=[5]")
    assert "target = []: must be" in said("target=[]")
    assert "requests = 0" in said("requests=0")
    assert "seed = -1" in said("seed=-1")
    assert "api = x" in said("api=x")
    assert "prompts = token_ids: must be text" in said("prompts=token_ids", "api=chat")
    Path("taken").mkdir()
    Path("taken/mine").touch()
    assert "out = taken: exists" in said("out=taken")
