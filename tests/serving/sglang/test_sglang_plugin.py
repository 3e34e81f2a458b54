"""SGLang's own scheduler under plans: it does what they say, every output is exact and nothing is leaked."""

import inspect
import json
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sglang.srt.managers.schedule_batch import ScheduleBatch
from sglang.srt.managers.schedule_policy import PrefillAdder, SchedulePolicy
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.plugins.hook_registry import HookRegistry

from servegym.agents.serving.config import engine_from_config
from servegym.agents.serving.contracts import (
    COMPUTED_TOKENS,
    GENERATED_TOKENS,
    PREDICTED_OUTPUT_TOKENS,
    PRIORITY,
    PROMPT_TOKENS,
    EnginePlan,
    EngineState,
    as_it_is,
)
from servegym.agents.serving.engine.engine import Engine
from servegym.agents.serving.plugins.sglang import CONFIG_VARIABLE, Planner, Ranks, hook, register
from tests.serving.sglang.stepped import SteppedScheduler, token_of

HOOKED = (
    (Scheduler, "init_schedule_policy"),
    (SchedulePolicy, "calc_priority"),
    (PrefillAdder, "__init__"),
    (ScheduleBatch, "_get_decode_retraction_order"),
)


class By:
    """A policy from a function of the state."""

    name, bounded = "test", True

    def __init__(self, plan: Callable[[EngineState], EnginePlan]) -> None:
        self.plan = plan


@contextmanager
def hooked(policy: By | None) -> Iterator[Planner | None]:
    """SGLang with our hooks, as it applies them itself; without them again afterwards. None: with none."""
    before = [vars(owner)[name] for owner, name in HOOKED]
    planner = None
    if policy is not None:
        planner = hook(Engine(policy, deadline_s=None))
        HookRegistry.apply_hooks()
        changed = [vars(owner)[name] for owner, name in HOOKED]
        assert all(new is not old for new, old in zip(changed, before, strict=True))
    try:
        yield planner
    finally:
        for (owner, name), original in zip(HOOKED, before, strict=True):
            setattr(owner, name, original)
        HookRegistry._hooks.clear()
        HookRegistry._patched.clear()


def shortest_first(state: EngineState) -> EnginePlan:
    def order(rows: np.ndarray) -> tuple[int, ...]:
        left = rows[:, PREDICTED_OUTPUT_TOKENS] - rows[:, GENERATED_TOKENS] + 0.3 * rows[:, PROMPT_TOKENS]
        return tuple(np.argsort(left, kind="stable").tolist())

    return as_it_is(state)._replace(waiting=order(state.waiting), running=order(state.running))


class At:
    """Plans at random what may be planned."""

    def __init__(self, seed: int) -> None:
        self.rng, self.victims = np.random.default_rng(seed), 0

    def __call__(self, state: EngineState) -> EnginePlan:
        rng, limits = self.rng, state.limits
        waiting, running = rng.permutation(len(state.waiting)), rng.permutation(len(state.running))
        count = int(rng.integers(0, len(running) + 1))
        return EnginePlan(
            preempt=tuple(running[:count].tolist()),
            waiting=tuple(waiting[: rng.integers(0, len(waiting) + 1)].tolist()),
            running=tuple(running.tolist()) if rng.random() < 0.8 else None,
            max_running=int(rng.integers(1, limits.max_num_seqs + 1)),
            token_budget=int(rng.integers(1, limits.token_budget + 1)),
        )


def stepped(folder: Path, seed: int = 0, num_requests: int = 60, **settings: object) -> SteppedScheduler:
    """A scheduler whose memory is soon short, and requests that come as it goes."""
    given = {"kv_tokens": 640, "max_running_requests": 12, "chunked_prefill_size": 96, **settings}
    scheduler = SteppedScheduler(folder, schedule_conservativeness=0.05, **given)
    rng = np.random.default_rng(seed)
    for i in range(num_requests):
        prompt, output = int(rng.integers(1, 200)), int(rng.integers(1, 60))
        scheduler.add(f"r{i}", prompt, output, custom_params={"predicted_output_tokens": output})
    return scheduler


def assert_all_exact(scheduler: SteppedScheduler, num_requests: int = 60) -> None:
    assert len(scheduler.finished) == num_requests
    for name, request in scheduler.finished.items():
        due = [token_of(name, i) for i in range(request.sampling_params.max_new_tokens)]
        assert list(request.output_ids) == due
    assert scheduler.leaked() == (0, 0)


def mean_finishing_step(scheduler: SteppedScheduler) -> float:
    last = {}
    for step, (_, names) in enumerate(scheduler.history):
        last.update(dict.fromkeys(names, step))
    return float(np.mean(list(last.values())))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mixed", [False, True])
def test_random_plans_lose_nothing(tmp_path: Path, seed: int, mixed: bool) -> None:
    policy = At(seed)
    with hooked(By(policy)) as planner:
        scheduler = stepped(tmp_path, seed, enable_mixed_chunk=mixed)
        scheduler.run()
    assert planner is not None and planner.failures == 0
    assert planner.engine.plans > 100 and not planner.engine.fallbacks
    assert scheduler.num_retracted > 0
    assert_all_exact(scheduler)


def test_shortest_first_ends_sooner_than_sglang_by_itself(tmp_path: Path) -> None:
    means = {}
    for policy in (None, By(shortest_first)):
        with hooked(policy):
            scheduler = stepped(tmp_path, num_requests=60)
            scheduler.run()
        assert_all_exact(scheduler)
        means[policy is None] = mean_finishing_step(scheduler)
    print(f"mean finishing step: fcfs {means[True]:.0f}, shortest first {means[False]:.0f}")
    assert means[False] < 0.8 * means[True]


def test_the_queue_goes_as_planned_and_who_is_not_named_behind(tmp_path: Path) -> None:
    def last_two(state: EngineState) -> EnginePlan:
        count = len(state.waiting)
        return as_it_is(state)._replace(waiting=tuple(range(count - 1, max(count - 3, -1), -1)))

    with hooked(By(last_two)):
        scheduler = SteppedScheduler(tmp_path, 5000, 8, chunked_prefill_size=1000)
        for name in "abcde":
            scheduler.add(name, 50, 3)
        scheduler.step()
    assert scheduler.history == [("prefill", ("e", "d", "a", "b", "c"))]


def test_no_more_prefills_than_planned(tmp_path: Path) -> None:
    def two_and_few_tokens(state: EngineState) -> EnginePlan:
        decoding = int((state.running[:, GENERATED_TOKENS] > 0).sum())
        plan = as_it_is(state)._replace(max_running=decoding + 2)
        return plan._replace(token_budget=min(decoding + 40, state.limits.token_budget))

    extended = []
    with hooked(By(two_and_few_tokens)):
        scheduler = SteppedScheduler(tmp_path, 5000, 8, chunked_prefill_size=1000)
        for i in range(8):
            scheduler.add(f"r{i}", 30 + i, 4)
        while scheduler.step():
            if scheduler.last is not None and scheduler.last.forward_mode.is_extend():
                extended.append(sum(request.extend_len for request in scheduler.last.reqs))
                assert len(scheduler.last.reqs) <= 2
    assert len(scheduler.finished) == 8 and scheduler.leaked() == (0, 0)
    assert max(extended) == 40


def test_who_decodes_goes_on_while_no_prefill_is_planned(tmp_path: Path) -> None:
    def decodes_first(state: EngineState) -> EnginePlan:
        decoding = int((state.running[:, GENERATED_TOKENS] > 0).sum())
        return as_it_is(state)._replace(token_budget=max(decoding, 1))

    with hooked(By(decodes_first)):
        scheduler = SteppedScheduler(tmp_path, 5000, 8, chunked_prefill_size=1000)
        scheduler.add("first", 50, 5)
        scheduler.step()
        scheduler.add("second", 50, 5)
        scheduler.run()
    kinds = [kind for kind, names in scheduler.history if "second" in names or "first" in names]
    first_of_second = next(i for i, (_, names) in enumerate(scheduler.history) if "second" in names)
    first_ended = max(i for i, (_, names) in enumerate(scheduler.history) if "first" in names)
    # Both are prefilled token by token, for one token a prefill is all that is planned.
    assert first_of_second > first_ended
    assert kinds.count("decode") >= 8 and scheduler.leaked() == (0, 0)


@pytest.mark.parametrize(("small_first", "victim"), [(True, "p4"), (False, "p1")])
def test_who_is_given_up_where_memory_is_lacking(tmp_path: Path, small_first: bool, victim: str) -> None:
    def keep_the_important(state: EngineState) -> EnginePlan:
        order = np.argsort(state.running[:, PRIORITY], kind="stable")
        return as_it_is(state)._replace(running=tuple(order.tolist()))

    with hooked(By(keep_the_important)):
        scheduler = SteppedScheduler(
            tmp_path,
            400,
            8,
            chunked_prefill_size=1000,
            schedule_conservativeness=0.05,
            enable_priority_scheduling=True,
            schedule_low_priority_values_first=small_first,
        )
        for i, priority in enumerate((3, 1, 2, 4)):
            scheduler.add(f"p{priority}", 50 + i, 70, priority=priority)
        while not scheduler.num_retracted:
            assert scheduler.step()
    assert scheduler.waiting_queue[0].rid == victim


@pytest.mark.parametrize("fault", ["raises", "malformed", "unreadable"])
def test_sglang_goes_by_its_own_rules_where_the_policy_fails(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(state: EngineState) -> EnginePlan:
        if fault == "raises":
            raise RuntimeError("no idea")
        return as_it_is(state)._replace(waiting=(0, 0)) if fault == "malformed" else shortest_first(state)

    with hooked(None):
        own = stepped(tmp_path)
        own.run()
    with caplog.at_level(logging.WARNING), hooked(By(fails)) as planner:
        scheduler = stepped(tmp_path)
        if fault == "unreadable":
            del scheduler.schedule_low_priority_values_first
        scheduler.run()
    assert planner is not None
    assert scheduler.history == own.history
    assert_all_exact(scheduler)
    failed = planner.failures if fault == "unreadable" else sum(planner.engine.fallbacks.values())
    assert failed > 10
    assert len([each for each in caplog.records if each.name.startswith("servegym")]) == 1


@pytest.mark.parametrize(("owner", "name"), HOOKED[1:])
def test_sglang_goes_by_its_own_rules_where_it_is_another_than_the_hooks_know(
    tmp_path: Path, owner: type, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with hooked(None):
        own = stepped(tmp_path)
        own.run()
    is_static, original = isinstance(vars(owner)[name], staticmethod), getattr(owner, name)

    def changed(*given: Any, **named: Any) -> Any:
        return original(*given, **named)

    monkeypatch.setattr(owner, name, staticmethod(changed) if is_static else changed)
    with caplog.at_level(logging.WARNING), hooked(By(shortest_first)) as planner:
        scheduler = stepped(tmp_path)
        scheduler.run()
    assert planner is not None and planner.engine.plans == 0
    assert scheduler.history == own.history
    assert_all_exact(scheduler)
    (said,) = [each.getMessage() for each in caplog.records if each.name.startswith("servegym")]
    assert f"{owner.__name__}.{name} takes (given, named)" in said


def test_what_a_policy_is_told(tmp_path: Path) -> None:
    states: list[EngineState] = []

    def listen(state: EngineState) -> EnginePlan:
        states.append(state)
        return as_it_is(state)

    with hooked(By(listen)):
        scheduler = SteppedScheduler(tmp_path, 4000, 8, chunked_prefill_size=100)
        scheduler.add("a", 40, 9, custom_params={"predicted_output_tokens": 7}, priority=2)
        scheduler.step()
        scheduler.add("b", 250, 9, custom_params={"predicted_output_tokens": "many"})
        scheduler.step()
        scheduler.add("c", 30, 9)
        scheduler.step()
    first, second, third = states
    assert first.limits == (100, 8, 16, 250, True) and first.free_blocks == 250
    assert first.waiting[0, :4].tolist() == [40, 0, 0, 7] and first.waiting[0, PRIORITY] == -2
    assert second.limits.token_budget == 101  # who decodes takes nothing of prefills
    assert second.running[0, :4].tolist() == [40, 1, 40, 7]
    assert second.waiting[0, :4].tolist() == [250, 0, 0, 0]
    assert third.waiting[:, PROMPT_TOKENS].tolist() == [30]
    assert third.running[:, PROMPT_TOKENS].tolist() == [40, 250]
    assert third.running[1, COMPUTED_TOKENS] == 100 and third.running[1, -1] == 7
    assert 0 < third.waiting[0, 4] < 60
    assert third.free_blocks == (4000 - 40 - 100) // 16


@pytest.mark.parametrize("policy", [{"artifact": "zoo:scheduler"}, {"artifact": "zoo:two_level"}])
def test_exported_policies(tmp_path: Path, policy: dict[str, str]) -> None:
    engine = engine_from_config({"policy": policy, "deadline_s": None})
    with hooked(engine.policy) as planner:  # type: ignore[arg-type]
        scheduler = stepped(tmp_path, kv_tokens=2000)
        scheduler.run()
    assert planner is not None and planner.failures == 0
    assert planner.engine.plans > 50 and not planner.engine.fallbacks
    assert_all_exact(scheduler)


def test_without_a_configuration_nothing_is_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    register()
    assert not HookRegistry._hooks


DISCOVERED = """
import sys
sys.path.insert(0, {folder!r})
import conftest
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.managers.schedule_batch import ScheduleBatch
from sglang.srt.managers.schedule_policy import PrefillAdder, SchedulePolicy
from sglang.srt.managers.scheduler import Scheduler
print([hasattr(each, "__wrapped__") for each in (
    Scheduler.init_schedule_policy, SchedulePolicy.calc_priority, PrefillAdder.__init__,
    ScheduleBatch._get_decode_retraction_order)])
"""


def test_sglang_finds_the_plugin_of_the_installed_package(tmp_path: Path) -> None:
    config = tmp_path / "serving.json"
    config.write_text(json.dumps({"policy": {"artifact": "zoo:scheduler"}}))
    for path, due in ((str(config), True), (str(tmp_path / "none.json"), False)):
        done = subprocess.run(
            [sys.executable, "-c", DISCOVERED.format(folder=str(Path(__file__).parent))],
            env={**os.environ, CONFIG_VARIABLE: path},
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines()[-1:] == [str([due] * 4)], done.stderr[-2000:]
        assert due or "none.json" in done.stderr


def agree(rank: int, meeting: str, told: Any) -> None:
    """One of two processes that schedule the same requests; only the first may plan."""
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    planner = Planner(Engine(By(as_it_is)))
    planner._scheduler, planner._ranks = object(), Ranks(rank, 0, 2, torch.distributed.group.WORLD)

    def found() -> tuple[list[int], tuple[int, int]]:
        assert rank == 0
        return [3, 1, 2], (4, 5)

    def fails() -> None:
        raise RuntimeError

    told.put((rank, [planner._agree(found), planner._agree(fails), planner.failures]))


def test_processes_of_a_tensor_parallel_group_do_what_the_first_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    for rank in (0, 1):
        context.Process(target=agree, args=(rank, f"file://{tmp_path}/meeting", told), daemon=True).start()
    answers = dict(told.get(timeout=60) for _ in range(2))
    assert answers == {rank: [([3, 1, 2], (4, 5)), None, 1 - rank] for rank in (0, 1)}


def test_every_hook_is_where_sglang_has_it_and_takes_what_sglang_gives() -> None:
    due = {
        "calc_priority": ["self", "waiting_queue", "running_batch", "processed_tokens"],
        "_get_decode_retraction_order": ["reqs"],
        "init_schedule_policy": ["self"],
    }
    for owner, name in HOOKED:
        parameters = list(inspect.signature(getattr(owner, name)).parameters)
        assert parameters == due.get(name, parameters)
    prefill = inspect.signature(PrefillAdder.__init__).parameters
    assert {"page_size", "rem_chunk_tokens", "num_mixed_decode_tokens", "prefill_max_requests"} <= set(
        prefill
    )
