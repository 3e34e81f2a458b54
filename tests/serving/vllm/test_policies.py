"""Published rankings and the zoo's scheduler in vLLM's own scheduler."""

import json
import os
import random
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from servegym.agents.serving.config import engine_from_config
from servegym.agents.serving.contracts import EnginePlan
from servegym.agents.serving.plugins import vllm as plugin
from tests.serving.vllm.policies import ShortestFirst
from tests.serving.vllm.stepping import free_blocks, make_request, make_scheduler, run, token

ROOT = Path(__file__).parents[3]
RANKINGS = ("sjf", "ssjf", "srpt", "trail", "priority")


class Ranking:
    """A published ranking, asked in an environment that has servegym whole."""

    def __init__(self, name, python):
        self.name = name
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [python, "-m", "tests.serving.vllm.ranking_plans", name],
            cwd=ROOT,
            env={**environ, "NUMBA_DISABLE_JIT": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def plan(self, state):
        rows = [each.tolist() for each in (state.waiting, state.running)]
        self.process.stdin.write(json.dumps([state.limits, *rows, state.free_blocks]) + "\n")
        self.process.stdin.flush()
        plan = json.loads(self.process.stdout.readline())
        return EnginePlan(*(tuple(each) if isinstance(each, list) else each for each in plan))

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)


def heavy_tailed(num_requests):
    draw, requests = random.Random(1), []
    for number in range(num_requests):
        prompt = min(400, int(draw.lognormvariate(4, 1)) + 1)
        outputs = min(200, int(draw.lognormvariate(2.5, 1)) + 1)
        extra = {"predicted_output_tokens": outputs}
        about = {"priority": number % 3, "arrival_s": 0.0, "extra_args": extra}
        requests.append(make_request(number, prompt, outputs, **about))
    return requests


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Of the schedulers: an iteration takes 50 ms."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(plugin, "time", SimpleNamespace(time=lambda: now.s, monotonic=lambda: now.s))
    return lambda step: setattr(now, "s", 0.05 * step)


def stepped_under(policy, clock, is_async=False):
    scheduler = make_scheduler(policy, is_async=is_async)
    free, requests = free_blocks(scheduler), heavy_tailed(60)
    stepped = run(scheduler, requests, in_flight=int(is_async), each_step=clock)
    for request in requests:
        number = int(request.request_id)
        assert stepped.outputs[number] == [token(number, i) for i in range(request.max_tokens)]
    assert free_blocks(scheduler) == free
    assert policy is None or (scheduler.engine.plans > 50 and not scheduler.engine.fallbacks)
    return stepped


@pytest.mark.parametrize("is_async", [False, True])
def test_shortest_first_finishes_well_before_stock(is_async, clock):
    stock = stepped_under(None, clock, is_async).mean_finish()
    shortest = stepped_under(ShortestFirst(), clock, is_async).mean_finish()
    print(f"mean finishing step: fcfs {stock:.1f}, shortest first {shortest:.1f}")
    assert shortest < 0.75 * stock


@pytest.mark.parametrize("name", RANKINGS)
def test_published_rankings(name, servegym_python, clock):
    stock = stepped_under(None, clock)
    ranking = Ranking(name, servegym_python)
    try:
        stepped = stepped_under(ranking, clock)
    finally:
        ranking.close()
    print(f"mean finishing step: fcfs {stock.mean_finish():.1f}, {name} {stepped.mean_finish():.1f}")
    if name != "priority":
        assert stepped.mean_finish() < 0.85 * stock.mean_finish()
    else:
        assert mean_of(stepped, 0) < mean_of(stepped, 1) < mean_of(stepped, 2)


def mean_of(stepped, priority):
    steps = [step for number, step in stepped.finished.items() if number % 3 == priority]
    return sum(steps) / len(steps)


def test_the_zoos_scheduler(clock):
    stepped = {}
    for backend in ("onnx", "numpy"):
        config = {"policy": {"artifact": str(ROOT / "agents" / "zoo" / "scheduler"), "backend": backend}}
        stepped[backend] = stepped_under(engine_from_config(config).policy, clock)
    assert stepped["onnx"] == stepped["numpy"]
    stock, learned = stepped_under(None, clock).mean_finish(), stepped["onnx"].mean_finish()
    print(f"mean finishing step: fcfs {stock:.1f}, zoo:scheduler {learned:.1f}")
    assert learned < stock


def test_the_scheduler_of_the_documentation(tmp_path, monkeypatch, clock):
    page = (ROOT / "docs" / "serving" / "vllm.md").read_text()
    (code,) = (block for block in re.findall(r"```py\n(.*?)```", page, re.DOTALL) if "my_scheduler" in block)
    (tmp_path / "my_scheduler.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    scheduler = make_scheduler(cls="my_scheduler.Scheduler", is_async=True)
    stepped = run(scheduler, heavy_tailed(60), in_flight=1, each_step=clock)
    assert scheduler.engine.plans > 50 and not scheduler.engine.fallbacks
    assert stepped.mean_finish() < 0.75 * stepped_under(None, clock, is_async=True).mean_finish()
