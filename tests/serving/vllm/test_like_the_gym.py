"""vLLM's scheduler does what the gym does with the same decisions, and shows a policy what the gym shows."""

import json
import os
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from servegym.agents.serving.artifact.schema import LEVELS
from servegym.agents.serving.engine.learned_scheduler import LearnedScheduler
from servegym.agents.serving.plugins import vllm as plugin
from servegym.agents.serving.plugins.vllm_load import NAMES, Load
from tests.serving.vllm.stepping import make_request, make_scheduler, run

CASES = range(10)


class Recorded:
    """In place of an exported policy: it sees what the gym's agent saw, or notes that it does not."""

    description = {"level": "scheduler"}
    level = LEVELS["scheduler"]

    def __init__(self, choices, engine, requests):
        self.choices, self.engine, self.requests = choices, engine, requests
        self.asked, self.differs = 0, ""

    def score_one(self, observation):
        if not self.differs:
            for name, due in (("engine", self.engine), ("requests", self.requests)):
                if not np.array_equal(observation[name], due[self.asked]):
                    where = np.argwhere(observation[name] != due[self.asked])[0]
                    self.differs = (
                        f"choice {self.asked}: {name}{where.tolist()} = {observation[name][tuple(where)]}, "
                        f"in the gym {due[self.asked][tuple(where)]}"
                    )
        scores = np.zeros(68, np.float32)
        scores[self.choices[self.asked]] = 1.0
        self.asked += 1
        return scores


@pytest.fixture(scope="module")
def recorded(servegym_python, tmp_path_factory):
    """The gym's cases, and its observations of all of them in order."""
    folder = tmp_path_factory.mktemp("gym")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [servegym_python, "-m", "tests.serving.vllm.gym_steps", str(folder)],
        env={**environ, "NUMBA_DISABLE_JIT": "1"},
        cwd=os.path.dirname(__file__) + "/../../..",
        check=True,
    )
    cases = json.loads((folder / "steps.json").read_text())
    with np.load(folder / "observations.npz") as observations:
        seen = {name: observations[name] for name in ("engine", "requests")}
    return cases, seen


@pytest.mark.parametrize("number", CASES)
def test_the_scheduler_does_what_the_gym_does(recorded, number, monkeypatch):
    cases, seen = recorded
    case, before = cases[number], sum(_num_choices(each) for each in cases[:number])
    here = slice(before, before + _num_choices(case))
    choices = [choice for step in case["steps"] for choice in step["choices"]]
    policy = Recorded(choices, seen["engine"][here], seen["requests"][here])
    scheduler = _scheduler(case["engine"], LearnedScheduler(policy))
    scheduler.load = Load(scheduler)
    steps = case["steps"]
    clock = SimpleNamespace(s=0.0)
    monkeypatch.setattr(plugin, "time", SimpleNamespace(time=lambda: clock.s, monotonic=lambda: clock.s))
    reports = []

    def each_step(step):
        clock.s = steps[min(step, len(steps) - 1)]["start_s"]

    schedule = scheduler.schedule

    def noting():
        output = schedule()
        scheduler.load.look()
        reports.append(scheduler.load.report())
        return output

    monkeypatch.setattr(scheduler, "schedule", noting)
    stepped = run(scheduler, _requests(case), each_step=each_step)
    assert not policy.differs
    assert not scheduler.engine.fallbacks
    due = [{int(name): tokens for name, tokens in step["scheduled"].items()} for step in steps]
    assert stepped.scheduled == due
    for told, step in zip(reports, steps, strict=True):
        for name in set(NAMES) - {"iteration_left_s"}:  # which is an estimate here
            assert told[name] == pytest.approx(step["report"][name], rel=1e-12), name
    assert policy.asked == len(choices) > 150


def _num_choices(case):
    return sum(len(step["choices"]) for step in case["steps"])


def _scheduler(engine, policy):
    return make_scheduler(
        policy,
        num_blocks=engine["num_kv_blocks"],
        block_size=engine["block_size"],
        max_num_seqs=engine["max_num_seqs"],
        max_num_batched_tokens=engine["max_num_batched_tokens"],
        scheduler_reserve_full_isl=engine["reserve_full_prompt"],
    )


def _requests(case):
    """With the numbers of the steps before which they come; their priorities are their numbers."""
    starts = [step["start_s"] for step in case["steps"]]
    for number, request in enumerate(case["requests"]):
        parameters = {"extra_args": {"predicted_output_tokens": request["predicted"]}}
        yield (
            int(np.searchsorted(starts, request["arrival_s"])),
            make_request(
                number,
                request["prompt"],
                request["output"],
                arrival_s=request["arrival_s"],
                priority=number,
                **(parameters if request["predicted"] else {}),
            ),
        )
