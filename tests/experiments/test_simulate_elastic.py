"""`servegym simulate` with scenarios of elastic sequence parallelism: what it writes is what the system
did."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from servegym.agents.elastic_systems import make_elastic_system
from servegym.envs.elastic_scenario import load_elastic_scenario
from servegym.experiments.cli import main
from tests.experiments.commands import answer_of, error_of

SMALL = ("scenario=sharegpt_8a800", "scenario.workload.requests=60", "scenario.episode.requests=20")


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["loongserve", "vllm"])
def test_files_hold_what_the_system_did(capsys: pytest.CaptureFixture[str], folder: Path, name: str) -> None:
    answer = answer_of(capsys, "simulate", *SMALL, f"policy={name}", "seed=3", "out=a/b")
    scenario = load_elastic_scenario("sharegpt_8a800", SMALL[1:])
    served = make_elastic_system(name).serve(scenario, scenario.traffic.test_workload(3))
    table = pq.read_table(folder / "a/b/requests.parquet").to_pydict()
    for column in ("arrival_s", "prompt_tokens", "output_tokens", "first_token_s", "finish_s", "rejected"):
        np.testing.assert_array_equal(table[column], getattr(served, column))
    metrics = answer["metrics"]
    latency_s = served.finish_s - served.arrival_s
    tokens = served.prompt_tokens + served.output_tokens
    assert metrics["mean_total_s"] == pytest.approx((latency_s / tokens).mean())
    assert metrics["num_requests"] == 60
    assert metrics["num_rejected"] == 0
    assert metrics["scale_ups_per_10s"] == 10 * served.num_scale_ups / served.duration_s
    assert answer["policy"]["name"] == name
    assert answer.pop("out") == "a/b"
    assert json.loads((folder / "a/b/metrics.json").read_text()) == answer


@pytest.mark.compiled
def test_what_is_rejected_has_no_times(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """Of prompts up to 2,400 tokens half are too long for four instances of 200."""
    words = ("scenario.fleet.kv_tokens=200", "policy=loongserve", "out=run")
    metrics = answer_of(capsys, "simulate", *SMALL, *words)["metrics"]
    table = pq.read_table(folder / "run/requests.parquet").to_pydict()
    assert 0 < metrics["num_rejected"] == sum(table["rejected"]) < 60
    assert [each is None for each in table["finish_s"]] == table["rejected"]


@pytest.mark.compiled
@pytest.mark.usefixtures("folder")
def test_training_episodes_and_a_folder_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    answer = answer_of(capsys, "simulate", *SMALL, "split=train", "policy=vllm")
    assert answer["out"].startswith("runs/simulate/sharegpt_8a800-vllm-seed0-")
    assert answer["metrics"]["num_requests"] == 20
    assert main(["simulate", *SMALL, "split=train", "policy=vllm"]) == 0
    assert "vllm on sharegpt_8a800" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "words, message",
    [
        (("policy=jsq",), "policy = jsq: must be one of chunked_prefill, deepspeed_mii, distserve, "),
        (("router=jsq",), "router: must not be chosen here"),
        (("policy=vllm", "policy.max_num_seqs=0"), "policy.max_num_seqs = 0: must be at least 1"),
        (("policy=vllm", "policy.max_num_seqs=x"), "policy.max_num_seqs = x: must be of type int"),
        (("policy=vllm", "policy.chunk=3"), "policy.chunk: no such key"),
        (("policy.max_wait=-1",), "policy.max_wait = -1: must be at least 0"),
        (("policy=fixed_parallelism", "policy.degree=3"), "degree"),
        (("policy=distserve", "scenario.fleet.instances=1"), "policy distserve: 2 GPUs on each of 1 nodes"),
        (("policy=vllm", "scenario.fleet.instances=3"), "tensor_parallel is 6, must be one of 1, 2, 4, 8"),
        (("policy=vllm", "policy.kv_tokens=3"), "policy.kv_tokens = 3: must be at least a block of 16"),
        (("policy=vllm", "policy.max_num_batched_tokens=9"), "policy.max_num_seqs = 1024: must be at most "),
        (("policy=vllm", "scenario.fleet.decode_s=1e-7"), "decode_s = 1e-07: an iteration of 1 decodes"),
        (("seed=-1",), "seed = -1: must be at least 0"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    assert message in error_of(capsys, "simulate", *SMALL, *words)
