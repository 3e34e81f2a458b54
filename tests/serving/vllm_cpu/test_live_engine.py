"""A live engine answers under the plugin, and so do OpenAI servers, which tell routers their load."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from servegym.agents.serving.plugins.vllm_load import NAMES
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.load_reports import LoadReports, read_load
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.round_robin import RoundRobin
from servegym.agents.serving.routing.router import Router

pytestmark = pytest.mark.slow

SCHEDULER = "servegym.agents.serving.plugins.vllm.ServegymScheduler"
CONFIG = {
    "policy": {"artifact": str(Path(__file__).parents[3] / "agents" / "zoo" / "scheduler")},
    "deadline_s": None,
}
PROMPTS = [400, 300, 200, 100, 60, 50, 40, 30, 20, 10]
NUM_OUTPUTS = 24

GENERATE = """
import json, sys
from vllm import LLM, SamplingParams
model, scheduler, prompts, outputs, config = json.loads(sys.argv[1])
if __name__ == "__main__":
    llm = LLM(
        model=model, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, dtype="float32",
        seed=0, max_model_len=1024, max_num_seqs=8, max_num_batched_tokens=128, block_size=32,
        disable_log_stats=False, scheduler_cls=scheduler, additional_config=config,
    )
    answers = llm.generate(
        [{"prompt_token_ids": [3 + (i * 7 + j) % 500 for j in range(n)]} for i, n in enumerate(prompts)],
        SamplingParams(max_tokens=outputs, ignore_eos=True, temperature=0, detokenize=False), use_tqdm=False,
    )
    told = [[list(each.outputs[0].token_ids), each.metrics.first_token_latency] for each in answers]
    print("ANSWERS", json.dumps(told))
"""


def generate(model, scheduler, config, tmp_path):
    """Tokens and seconds to the first one of each prompt, by an engine in a process of its own."""
    (tmp_path / "generate.py").write_text(GENERATE)
    arguments = json.dumps([str(model), scheduler, PROMPTS, NUM_OUTPUTS, config])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "generate.py"), arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    assert answers, done.stderr[-3000:]
    return json.loads(answers[0].removeprefix("ANSWERS "))


def test_a_live_engine_answers_as_without_the_plugin(model, tmp_path):
    planned = generate(model, SCHEDULER, {"servegym": {"config": CONFIG}}, tmp_path)
    stock = generate(model, None, {}, tmp_path)
    assert [len(tokens) for tokens, _ in planned] == [NUM_OUTPUTS] * len(PROMPTS)
    same = sum(ours == theirs for (ours, _), (theirs, _) in zip(planned, stock, strict=True))
    first_s = {"planned": [s for _, s in planned], "stock": [s for _, s in stock]}
    print(f"{same} of {len(PROMPTS)} answers are the same; first tokens after {first_s}")
    assert same >= len(PROMPTS) - 1  # another batch may round the largest of two almost equal logits apart


@pytest.fixture
def servers(model, tmp_path, free_port):
    """Two OpenAI servers under the plugin: their addresses, and where they tell their loads."""
    started, addresses, loads = [], [], []
    try:
        for number in range(2):
            port, load_port = free_port(), free_port()
            folder = tmp_path / f"metrics-{number}"
            folder.mkdir()
            options = {
                "--model": str(model),
                "--served-model-name": "small",
                "--host": "127.0.0.1",
                "--port": str(port),
                "--load-format": "dummy",
                "--dtype": "float32",
                "--max-model-len": "1024",
                "--max-num-seqs": "4",
                "--max-num-batched-tokens": "128",
                "--block-size": "32",
                "--scheduling-policy": "priority",
                "--scheduler-cls": SCHEDULER,
                "--additional-config": json.dumps({"servegym": {"load_port": load_port}}),
            }
            config = tmp_path / f"serving-{number}.json"
            config.write_text(json.dumps(CONFIG))
            environ = {"SERVEGYM_SERVING_CONFIG": str(config), "PROMETHEUS_MULTIPROC_DIR": str(folder)}
            command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
            with (tmp_path / f"server-{number}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [*command, *(each for option in options.items() for each in option)],
                        env={**os.environ, **environ},
                        stdout=log,
                        stderr=log,
                    )
                )
            addresses.append(f"127.0.0.1:{port}")
            loads.append(f"127.0.0.1:{load_port}")
        for number, address in enumerate(addresses):
            await_health(started[number], address, tmp_path / f"server-{number}.log")
        yield addresses, loads
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_health(process, address, log):
    give_up_s = time.monotonic() + 600
    while time.monotonic() < give_up_s:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"http://{address}/health", timeout=5)
        except OSError:
            time.sleep(1)
        else:
            return
    pytest.fail(f"not up after 10 minutes: {log.read_text()[-3000:]}")


def complete(address, number):
    body = {
        "model": "small",
        "prompt": "a request waits until an engine has room for it " * (1 + number % 8),
        "max_tokens": 8 + number % 17,
        "temperature": 0,
        "ignore_eos": True,
        "priority": number % 3,
        "vllm_xargs": {"predicted_output_tokens": 8 + number % 17},
    }
    request = urllib.request.Request(
        f"http://{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        usage = json.load(answer)["usage"]
    assert usage["completion_tokens"] == body["max_tokens"]
    return usage["prompt_tokens"]


def test_openai_servers_answer_and_tell_their_load(servers, tmp_path):
    addresses, loads = servers
    router = Router(RoundRobin(), FleetView(addresses), deadline_s=None)
    seen = {"load": [], "metrics": []}

    def watch_loads():
        async def watch():
            polls = LoadReports(
                router, dict(zip(addresses, loads, strict=True)), period_s=0.05, timeout_s=5.0
            )
            task = asyncio.create_task(polls.run())
            while not done:
                seen["load"].append((await read_load(loads[0]))[0])
                seen["metrics"].append((await read_load(addresses[0], "/metrics"))[0])
                await asyncio.sleep(0.05)
            task.cancel()

        asyncio.run(watch())

    done = []
    with ThreadPoolExecutor(17) as threads:
        watching = threads.submit(watch_loads)

        def route_one(number):
            decision = router.route(RoutedRequest(str(number), 50.0, 8.0 + number % 17))
            tokens = complete(decision.replica, number)
            router.ended(str(number))
            return decision.replica, tokens

        answered = list(threads.map(route_one, range(60)))
        time.sleep(1)
        done.append(True)
        watching.result()
    assert len(answered) == 60
    assert {replica for replica, _ in answered} == set(addresses)
    for told in seen.values():
        assert set(NAMES) <= set(told[-1])
        assert max(each["running"] for each in told) == 4
        assert max(each["waiting"] for each in told) > 0
        assert max(each["predicted_remaining_tokens"] for each in told) > 8
        assert max(each["kv_used_blocks"] for each in told) > 4
        assert told[-1]["running"] == told[-1]["outstanding_tokens"] == told[-1]["kv_used_blocks"] == 0
        assert told[-1]["kv_released_per_iteration"] > 0
    print(f"{len(seen['load'])} reports; {seen['load'][len(seen['load']) // 2]}")
    logs = [(tmp_path / f"server-{number}.log").read_text() for number in range(2)]
    assert all(
        "vLLM's own rules decide" not in log and "engine's own rules decide" not in log for log in logs
    )
