"""The replay of an engine's log: no error against the simulator's own log, its share against a slower one."""

import json
from pathlib import Path

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import CPU_OVERHEAD_S
from servegym.costmodels.iterations.measured_layers import compile_from_layer_profile
from servegym.costmodels.kernels.llmservingsim import read_layer_profile
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload
from servegym.experiments.validation.engine import show, validate_engine

LAYERS = (
    "embedding", "layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj",
    "final_layernorm",
)  # fmt: skip
META = "model: meta-llama/Llama-3.1-8B\nhardware: RTXPRO6000\nvllm_version: 0.19.0\nvariant: bf16\n"
ARGUMENTS = {"max_num_seqs": 8, "max_num_batched_tokens": 256}


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of made-up times."""
    folder = tmp_path_factory.mktemp("profile")
    (folder / "tp1").mkdir()
    (folder / "meta.yaml").write_text(META + "engine_effective: {max_num_seqs: 8}\n")
    dense = [f"{name},{n},{20 + n / 4}" for name in LAYERS for n in (1, 64, 256)]
    (folder / "tp1/dense.csv").write_text("\n".join(["layer,tokens,time_us", *dense]))
    heads = [f"{name},{n},{30 + n}" for name in ("lm_head", "sampler") for n in (1, 8)]
    (folder / "tp1/per_sequence.csv").write_text("\n".join(["layer,sequences,time_us", *heads]))
    calls = [(0, 0, n, kv, 8 + n * kv / 100) for n in (1, 8) for kv in (16, 512)]
    calls += [(c, h, 0, 0, 8 + c * (c + h) / 1000) for c in (16, 256) for h in (0, 512)]
    calls += [
        (c, 0, n, kv, 8 + c * c / 1000 + n * kv / 50) for c in (16, 256) for n, kv in ((1, 16), (8, 512))
    ]
    calls += [
        (c, 0, n, kv, 8 + c * c / 1000 + n * kv / 50) for c in (16, 256) for n, kv in ((1, 512), (8, 16))
    ]
    rows = [",".join(map(str, call)) for call in calls]
    header = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    (folder / "tp1/attention.csv").write_text("\n".join([header, *rows]))
    return folder


def write_log(folder: Path, profile: Path, slower: float) -> Path:
    """A log with the simulator's own times, stretched."""
    rng = np.random.default_rng(0)
    cost = compile_from_layer_profile(
        read_layer_profile(profile),
        num_layers=32,
        cpu_overhead_s=CPU_OVERHEAD_S,
        **ARGUMENTS,
    )
    arrival_s = np.cumsum(rng.exponential(0.05, 40))
    workload = Workload(
        "made up", arrival_s - arrival_s[0], rng.integers(16, 600, 40), rng.integers(2, 60, 40)
    )
    engine = Engine(256, 8, 10_000)
    results = simulate(workload, make_router("round_robin"), num_replicas=1, engine=engine, cost=cost)
    lines = []
    for i in range(40):
        start = float(results.arrival_s[i])
        times = (results.scheduled_s[i], results.first_token_s[i], results.finish_s[i])
        stretched = [5.0 + start + slower * (float(time) - start) for time in times]
        record = {
            "input_toks": int(workload.prompt_tokens[i]),
            "output_toks": int(workload.output_tokens[i]),
            "arrival_time": 1e9 + start,
            "queued_ts": 5.0 + start,
            **dict(zip(("scheduled_ts", "first_token_ts", "last_token_ts"), stretched, strict=True)),
        }
        lines.append(json.dumps(record))
    (folder / "requests.jsonl").write_text("\n".join(lines))
    meta = {"model": "meta-llama/Llama-3.1-8B", "vllm_version": "0.19.0", "engine_kwargs": ARGUMENTS}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize("slower", [1.0, 1.25])
def test_errors_are_signed_ratios_of_means(tmp_path: Path, profile: Path, slower: float) -> None:
    answer = validate_engine(str(write_log(tmp_path, profile, slower)), str(profile))
    for key in ("tpot", "e2e", "ttft"):
        assert answer[f"{key}_mean_error"] == pytest.approx(1 / slower - 1, abs=1e-4)
        assert answer["median_error"][key] == pytest.approx(1 / slower - 1, abs=1e-4)
    show(answer)


def test_a_log_without_a_profile_is_refused(tmp_path: Path, profile: Path) -> None:
    with pytest.raises(InputError, match="no layer profile beside it; name one with profile=FOLDER"):
        validate_engine(str(write_log(tmp_path, profile, 1.0)))
