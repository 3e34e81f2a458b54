"""A policy in vLLM's V1 scheduler: `--scheduler-cls servegym.agents.serving.plugins.vllm.ServegymScheduler`.

Before vLLM schedules an iteration the policy plans it; the plan is carried out by what vLLM's own rules read:
the order of its queues, its limits, its preemptions. These rules do all the rest, and everything where the
policy fails. docs/serving/vllm.md says how to configure it.
"""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import vllm
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import FCFSRequestQueue, PriorityRequestQueue, SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler

from servegym.agents.serving.config import engine_from_config, load_config
from servegym.agents.serving.contracts import EnginePlan
from servegym.agents.serving.engine.engine import Engine
from servegym.agents.serving.plugins.vllm_load import Load, LoadSettings, start_load
from servegym.agents.serving.plugins.vllm_state import Seen, limits_of, look, seats_of_others
from servegym.agents.serving.plugins.vllm_versions import check_fields, check_version
from servegym.costmodels.errors import InputError

CONFIG_VARIABLE = "SERVEGYM_SERVING_CONFIG"
"""Environment variable with the path of the configuration, where `additional_config` has none."""

_LOG = logging.getLogger("servegym.vllm")


class SyncServegymScheduler(Scheduler):
    """vLLM's synchronous scheduler under a policy, for `--no-async-scheduling`."""

    engine: Engine | None = None
    """What plans; None leaves everything to vLLM."""

    load: Load | None = None
    """What is reported of the engine; None where nobody asked for it."""

    waiting: Any
    policy: Any
    max_num_scheduled_tokens: int
    max_num_active_reqs: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_version(vllm.__version__)
        super().__init__(*args, **kwargs)
        check_fields(self)
        self.limits = limits_of(self)
        self.unreadable = 0
        given = settings_of(self.vllm_config)
        if self.engine is None and "config" in given:
            config = given["config"]
            self.engine = engine_from_config(load_config(config) if isinstance(config, str) else config)
        self.load = start_load(self, LoadSettings.of(given), self.parallel_config.data_parallel_index)
        name = "none" if self.engine is None else self.engine.policy.name
        _LOG.info("policy %s plans for vLLM %s, %s", name, vllm.__version__, self.limits)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """As vLLM's, after the plan."""
        with self._carrying_out():
            output = super().schedule(*args, **kwargs)
        if self.load is not None:
            self.load.scheduled(output)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """As vLLM's; the load that is reported follows."""
        if self.load is None:
            return super().update_from_output(scheduler_output, model_runner_output)
        served = [self.requests.get(each) for each in scheduler_output.num_scheduled_tokens]
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self.load.completed(served)
        return outputs

    @contextmanager
    def _carrying_out(self) -> Iterator[None]:
        """Limits and queues are the plan's inside, and vLLM's own again afterwards."""
        planned = self._plan()
        if planned is None:
            yield
            return
        seen, plan = planned
        victims = self._preempt(plan, seen)
        config = self.scheduler_config
        budget, seats = self.max_num_scheduled_tokens, self.max_num_active_reqs
        chunk, policy = config.long_prefill_token_threshold, self.policy
        waiting, running = list(self.waiting), list(self.running)
        self.waiting = self._queue(plan, seen)
        self.running[:] = self._order_of_service(plan, seen, victims)
        self.policy = SchedulingPolicy.FCFS  # the last of `running` is given up first
        drafts = sum(len(request.spec_token_ids) for request in seen.running)
        self.max_num_scheduled_tokens = min(plan.token_budget + drafts, budget)
        self.max_num_active_reqs = min(plan.max_running + len(seen.ending) + seats_of_others(self), seats)
        config.long_prefill_token_threshold = self._chunk(plan, chunk)
        try:
            yield
        finally:
            self.max_num_scheduled_tokens, self.max_num_active_reqs = budget, seats
            config.long_prefill_token_threshold, self.policy = chunk, policy
            self._put_back(waiting, running, victims)

    def _plan(self) -> tuple[Seen, EnginePlan] | None:
        """What the policy wants; None where vLLM's own rules are to decide."""
        if self.engine is None or self.pause_state != PauseState.UNPAUSED:
            return None
        if not self.waiting and not any(request.is_prefill_chunk for request in self.running):
            return None
        try:
            seen = look(self, self.limits, time.time())
        except Exception:  # a field that means something else than it did must not end the engine
            self.unreadable += 1
            if self.unreadable == 1:
                _LOG.exception("the scheduler's state cannot be read: vLLM's own rules decide; said once")
            return None
        if not seen.waiting and not any(request.is_prefill_chunk for request in seen.running):
            return None
        planned = self.engine.plan(seen.state)
        return None if planned.policy == "engine" else (seen, planned.plan)

    def _preempt(self, plan: EnginePlan, seen: Seen) -> set[Any]:
        """Those the plan gives up, but for any whose blocks somebody else may still write to."""
        named = [seen.running[row] for row in plan.preempt]
        victims = [request for request in named if self._request_blocks_can_be_freed(request)]
        if victims:
            gone = set(victims)
            self.running[:] = [request for request in self.running if request not in gone]
            now_s = time.monotonic()
            for request in victims:
                self._preempt_request(request, now_s, self.requires_kv_delivery)
        return set(victims)

    def _queue(self, plan: EnginePlan, seen: Seen) -> Any:
        """Those who cannot be admitted yet in front, where vLLM looks after them; then as planned.

        Without those preempted just now: vLLM's workers are not made for a request that goes and comes in one
        iteration.
        """
        named, waiting = set(plan.waiting), seen.waiting
        first = [waiting[row] for row in plan.waiting]
        rest = [request for row, request in enumerate(waiting) if row not in named]
        return FCFSRequestQueue(seen.blocked + first + rest)

    def _order_of_service(self, plan: EnginePlan, seen: Seen, victims: set[Any]) -> list[Any]:
        if plan.running is None:
            return list(self.running)
        order = [seen.running[row] for row in plan.running]
        return seen.ending + [request for request in order if request not in victims]

    def _chunk(self, plan: EnginePlan, own: int) -> int:
        """Most tokens of one prefill, 0 for any; at least those of a decode with its drafts."""
        if not plan.prefill_chunk:
            return own
        chunk: int = max(plan.prefill_chunk, 1 + self.num_spec_tokens)
        return min(chunk, own) if own else chunk

    def _put_back(self, waiting: list[Any], running: list[Any], victims: set[Any]) -> None:
        """The queue in its own order again, those whom vLLM gave up in front; those who run as admitted."""
        left, known = list(self.waiting), set(waiting)
        still = victims.union(left)
        given_up = [request for request in left if request not in known]
        order = given_up + [request for request in waiting if request in still]
        self.waiting = (
            FCFSRequestQueue(order) if self.policy == SchedulingPolicy.FCFS else _by_priority(order)
        )
        here, before = set(self.running), set(running)
        admitted = [request for request in self.running if request not in before]
        self.running[:] = [request for request in running if request in here] + admitted


def _by_priority(requests: list[Any]) -> Any:
    queue = PriorityRequestQueue()
    for request in requests:
        queue.add_request(request)
    return queue


class AsyncServegymScheduler(SyncServegymScheduler, AsyncScheduler):
    """The same with vLLM's default: an iteration is scheduled while the one before runs."""


class ServegymScheduler:
    """Whichever of the two belongs to the engine's `--async-scheduling`."""

    def __new__(cls, vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        is_async = vllm_config.scheduler_config.async_scheduling
        return (AsyncServegymScheduler if is_async else SyncServegymScheduler)(vllm_config, *args, **kwargs)


def settings_of(vllm_config: Any) -> dict[str, Any]:
    """`servegym` of vLLM's `--additional-config`; its `config` (a path or an object) else by the environment.

    InputError where it is no object.
    """
    additional = vllm_config.additional_config
    given = additional.get("servegym", {}) if isinstance(additional, dict) else {}
    if not isinstance(given, dict):
        raise InputError(f"additional_config.servegym = {json.dumps(given)}: must be an object with keys")
    path = os.environ.get(CONFIG_VARIABLE)
    return {"config": path, **given} if path else dict(given)
