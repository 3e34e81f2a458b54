"""Bad input: exit code 2, one line that names key, value and what is allowed, and nothing is written."""

from pathlib import Path

import pytest

from servegym.envs.scenario.compose import list_group
from tests.experiments.commands import SMALL_SCENARIO, SMALL_TRAINING, error_of

SCENARIOS = ", ".join(list_group("scenario"))
AGENTS = ", ".join(list_group("agent"))
COMMANDS = {
    "simulate": ("simulate", *SMALL_SCENARIO),
    "power_of_two": ("simulate", *SMALL_SCENARIO, "router=power_of_two"),
    "weighted": ("simulate", *SMALL_SCENARIO, "router=weighted_round_robin"),
    "train": ("train", *SMALL_TRAINING),
    "untrained": ("train", *SMALL_SCENARIO),
    "bench": ("bench",),
    "export": ("export",),
    "resume": ("train", "resume=true"),
    "nothing": ("simulate",),
}
"""What the words below are added to."""

UNKNOWN_NAMES = [
    ("nothing scenario=generated_8xh10", f"scenario = generated_8xh10: must be one of {SCENARIOS}"),
    ("nothing scenario=generated_8xh10", "did you mean generated_8xh100?"),
    ("simulate router=jqs", "weighted_round_robin, workload_mixing (did you mean jsq?)"),
    ("untrained agent=ppo_gn", f"agent = ppo_gn: must be one of {AGENTS} (did you mean ppo_gnn?)"),
    ("simulate fleet@scenario.fleet=b200", "fleet = b200: must be one of a100_llama2_7b, h100_llama_8b"),
    (
        "simulate scenario.fleet.pools=[{replicas:2,gpus:1}]",
        "scenario.fleet.pools: gpus: no such key; did you mean gpu?",
    ),
    ("simulate scenario.fleet.gpu=b200", "fleet.gpu = b200: must be one of a100_sxm, a800_sxm, h100_sxm"),
    ("simulate scenario.workload.fitted=nobody", "'nobody', allowed: arxiv, azure_conv_2023"),
    ("simulate scenario.workload.format=xls", "workload.format = xls: must be one of azure, csv"),
    ("simulate split=validation", "split = validation: must be one of train, test"),
    ("bench gpu", "bench gpu: must be one of simulator, env"),
]
UNKNOWN_KEYS = [
    (
        "simulate sed=1",
        "sed: no such key; did you mean seed? The configuration has scenario, router, rebalancer, ",
    ),
    (
        "simulate scenario.fleet.replica=4",
        "did you mean scenario.fleet.replicas? scenario.fleet has replicas",
    ),
    ("simulate rate_rps=4", "rate_rps: no such key; did you mean scenario.workload.rate_rps?"),
    ("power_of_two router.k=3", "router.k: no such key; router has name, d"),
    (
        "power_of_two +router.k=3",
        "router power_of_two: got an unexpected keyword argument 'k'",
    ),
    ("simulate agent=ppo_gnn", "agent: must not be chosen here, this command has none"),
    ("simulate workload=azure_conv_2023", "Did you mean to override workload@scenario.workload?"),
]
WRONG_TYPES = [
    ("simulate seed=abc", "seed = abc: must be a whole number"),
    ("simulate seed=1.5", "seed = 1.5: must be a whole number"),
    ("simulate seed=null", "seed = null: must have a value"),
    ("simulate scenario.workload.keep=most", "scenario.workload.keep = most: must be a number"),
    ("train resume=maybe", "resume = maybe: must be true or false"),
    ("power_of_two router.d=two", "router.d = two: must be of type int"),
    ("weighted router.weights=2", "router.weights = 2: must be a list, each of type float"),
]
OUT_OF_RANGE = [
    ("simulate seed=-1", "seed = -1: must be at least 0"),
    ("simulate scenario.fleet.replicas=0", "fleet.replicas = 0: must be from 1"),
    ("simulate scenario.workload.rate_rps=-3", "workload.rate_rps = -3.0: must be positive"),
    ("simulate scenario.workload.rate_rps=inf", "workload.rate_rps = inf: must be positive and finite"),
    ("simulate scenario.workload.rate_rps=nan", "workload.rate_rps = nan: must be positive and finite"),
    ("simulate scenario.workload.test_s=inf", "workload.test_s = inf: must be positive and finite"),
    ("simulate scenario.workload.prediction_error=2", "prediction_error = 2.0: must be null, or at least 0"),
    ("simulate scenario.costmodel.cpu_overhead_s=inf", "cpu_overhead_s = inf: must be at least 0 and finite"),
    ("simulate out=/dev/null/results", "out = /dev/null/results: cannot be made"),
    ("train agent.learning_rate=inf", "agent.learning_rate = inf: must be above 0 and finite"),
    ("train scenario.engine.num_kv_blocks=20", "KV blocks; the engine (vllm_v1) has num_kv_blocks = 20"),
    ("power_of_two router.d=0", "router.d = 0: must be at least 1"),
    ("weighted router.weights=[2,0]", "router.weights[1] = 0: must be above 0 and finite"),
    ("simulate router=llm_d", "router llm_d needs an engine with a prefix cache: the scenario has none"),
    (
        "simulate router=consistent_hashing",
        "router consistent_hashing needs prompts whose contents are given",
    ),
    ("train seed=-1", "seed = -1: must be at least 0"),
    ("train total_steps=0", "total_steps = 0: must be at least 1"),
    ("train agent.gamma=2", "agent.gamma = 2.0: must be above 0 and at most 1"),
    ("train agent.batch_size=48", "agent.batch_size = 48: must divide"),
    ("train scenario.episode.requests=0", "episode.requests = 0: must be at least 1"),
    ("bench env num_envs=0", "num_envs = 0: must be at least 1"),
    ("bench simulator replicas=[]", "replicas = []: must be"),
]
MISSING = [
    ("nothing", f"scenario: no choice made; must be one of {SCENARIOS}"),
    ("nothing scenario.fleet.replicas=4", f"scenario: no choice made; must be one of {SCENARIOS}"),
    ("untrained", f"agent: no choice made; must be one of {AGENTS}"),
    ("simulate scenario.fleet.model=???", "no value for scenario.fleet.model"),
    ("export", "no value for run_dir"),
    ("bench", "no value for what"),
    ("resume", "no value for run_dir"),
    ("export run_dir=nowhere", "no such run directory; make it with servegym train run_dir=nowhere"),
    ("resume run_dir=nowhere", "nowhere is no run directory: missing config.yaml"),
]
UNREADABLE = [
    ("simulate seed", "seed: cannot be read as KEY=VALUE"),
    ("simulate seed=[1", "seed=[1: cannot be read as KEY=VALUE"),
    ("simulate out=${nobody}", "'nobody'"),
]


@pytest.mark.parametrize(
    "typed, said", UNKNOWN_NAMES + UNKNOWN_KEYS + WRONG_TYPES + OUT_OF_RANGE + MISSING + UNREADABLE
)
def test_configuration(capsys: pytest.CaptureFixture[str], folder: Path, typed: str, said: str) -> None:
    command, *words = typed.split()
    assert said in error_of(capsys, *COMMANDS[command], *words)


HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens"


TRACES = {
    "missing column": ("arrived_at,num_prefill_tokens\n0,5\n", "line 1: column 'num_decode_tokens'"),
    "negative": (
        f"{HEADER}\n0,5,5\n30,-7,5\n",
        "line 3: num_prefill_tokens is '-7', allowed: a whole number",
    ),
    "zero": (
        f"{HEADER}\n0,5,0\n30,7,5\n",
        "line 2: num_decode_tokens is '0', allowed: a whole number from 1",
    ),
    "not whole": (f"{HEADER}\n0,5.5,5\n30,7,5\n", "line 2: num_prefill_tokens is '5.5', allowed: a whole"),
    "unsorted": (f"{HEADER}\n30,5,5\n0,7,5\n", "line 3: arrived_at is '0', earlier than the request before"),
    "NaN time": (f"{HEADER}\nnan,5,5\n30,7,5\n", "line 2: arrived_at is 'nan', allowed: a finite number"),
    "NaN tokens": (f"{HEADER}\n0,5,5\n30,nan,5\n", "line 3: num_prefill_tokens is 'nan', allowed: a whole"),
    "empty": ("", "line 1: the file holds nothing, allowed: a header and at least one request"),
    "only a header": (f"{HEADER}\n", "line 1: the file holds only a header, allowed: a header and at least"),
    "too long for testing": (f"{HEADER}\n0,5,5\n\n30,9000000,5\n", "line 4: request 0 with 9000000 prompt"),
    "too long for training": (f"{HEADER}\n0,9000000,5\n30,5,5\n", "line 2: request 0 with 9000000 prompt"),
}


@pytest.mark.parametrize("text, said", TRACES.values(), ids=TRACES)
def test_trace(capsys: pytest.CaptureFixture[str], folder: Path, text: str, said: str) -> None:
    (folder / "my.csv").write_text(text)
    trace = ("scenario.workload.trace=my.csv", "scenario.workload.format=csv")
    message = error_of(capsys, *COMMANDS["simulate"], *trace)
    assert message.startswith("my.csv, line ")
    assert said in message
    if "9000000" in text:
        assert "KV blocks of 16 tokens, allowed: at most" in message


def test_training_reads_the_trace_before_it_writes(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "my.csv").write_text(f"{HEADER}\n0,5,5\n30,-7,5\n")
    trace = ("scenario.workload.trace=my.csv", "scenario.workload.format=csv")
    assert "my.csv, line 3" in error_of(capsys, *COMMANDS["train"], *trace)


def test_training_needs_long_enough_a_trace_before_it_writes(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "my.csv").write_text(f"{HEADER}\n0,5,5\n1,5,5\n30,7,5\n")
    trace = ("scenario.workload.trace=my.csv", "scenario.workload.format=csv")
    assert "scenario.episode.requests = 32: must be at most" in error_of(capsys, *COMMANDS["train"], *trace)


def test_misspelt_trace_is_not_replaced_by_a_generator(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    message = error_of(capsys, "simulate", "scenario=azure_conv_8xh100", "scenario.workload.trace=my.cvs")
    assert message.startswith("scenario.workload.trace = my.cvs: no such file")
