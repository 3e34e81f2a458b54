"""SGLang's scheduler under a policy: a plugin of its entry point group `sglang.srt.plugins`

SGLang calls `register` in each of its processes. Its scheduler then asks a policy whom to admit and how much
to prefill, each time it is about to make a batch of prefills, and whom to give up where memory is lacking.
SGLang's own rules do all the rest, and everything where the policy fails. docs/serving/sglang.md says how to
configure it.
"""

import functools
import inspect
import logging
import os
import pkgutil
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from servegym.agents.serving.config import engine_from_config, load_config
from servegym.agents.serving.contracts import EnginePlan
from servegym.agents.serving.engine.engine import Engine
from servegym.agents.serving.plugins.sglang_state import Seen, look, look_at

CONFIG_VARIABLE = "SERVEGYM_SERVING_CONFIG"
"""Environment variable with the path of the configuration; without it the plugin does nothing."""

SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
QUEUE = "sglang.srt.managers.schedule_policy.SchedulePolicy.calc_priority"
PREFILL = "sglang.srt.managers.schedule_policy.PrefillAdder.__init__"
VICTIMS = "sglang.srt.managers.schedule_batch.ScheduleBatch._get_decode_retraction_order"

PARAMETERS = {
    QUEUE: ("self", "waiting_queue", "running_batch", "processed_tokens"),
    PREFILL: ("page_size", "rem_chunk_tokens", "num_mixed_decode_tokens", "prefill_max_requests"),
    VICTIMS: ("reqs",),
}
"""What the hooks know of: all parameters, but of PREFILL those that are read."""

_LOG = logging.getLogger("servegym.sglang")


def register() -> None:
    """Registers the hooks, where a configuration is named. InputError where it cannot be used."""
    path = os.environ.get(CONFIG_VARIABLE)
    if path:
        hook(engine_from_config(load_config(path)))


def hook(engine: Engine) -> "Planner":
    """Registers hooks by which `engine` plans for the scheduler of this process; SGLang applies them."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    planner = Planner(engine)
    HookRegistry.register(f"{SCHEDULER}.init_schedule_policy", planner.begin, HookType.AFTER)
    HookRegistry.register(QUEUE, planner.order_queue, HookType.AROUND)
    HookRegistry.register(PREFILL, planner.limit_prefill, HookType.AROUND)
    HookRegistry.register(VICTIMS, planner.order_victims, HookType.AROUND)
    return planner


class Limits(NamedTuple):
    """Of the batch of prefills that is made next: requests and tokens."""

    requests: int
    tokens: int


class Planner:
    """The hooks, for the one scheduler of a process.

    `failures` counts what could not be read or carried out; SGLang's own rules decided then.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.failures = 0
        self._scheduler: Any = None
        self._limits: Limits | None = None
        self._ranks: Ranks | None = None

    def begin(self, result: None, scheduler: Any, *_: Any, **__: Any) -> None:
        """After a scheduler has made its policy."""
        self._scheduler = scheduler
        if changed := changed_function():
            _LOG.warning("%s: SGLang's own rules decide", changed)
            return
        self._ranks = ranks_of(scheduler)
        _LOG.info("policy %s plans for SGLang", self.engine.policy.name)

    def order_queue(
        self, original: Callable[..., None], policy: Any, waiting_queue: list[Any], *args: Any, **kwargs: Any
    ) -> None:
        """Instead of the scheduling policy's order: that order, and then the plan's."""
        original(policy, waiting_queue, *args, **kwargs)
        running_batch = args[0] if args else kwargs.get("running_batch")
        self._limits = None
        planned = self._agree(lambda: self._plan_prefill(waiting_queue, running_batch))
        if planned is not None:
            order, self._limits = planned
            waiting_queue[:] = [waiting_queue[row] for row in order]

    def limit_prefill(self, original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Before a batch of prefills is put together: not more of them than planned."""
        limits, self._limits = self._limits, None
        if limits is None:
            original(*args, **kwargs)
            return
        given = _signature(original).bind(*args, **kwargs)
        given.apply_defaults()
        own = given.arguments
        if own["rem_chunk_tokens"] is not None:
            page = own["page_size"]
            tokens = max(limits.tokens // page, 1) * page + own["num_mixed_decode_tokens"]
            own["rem_chunk_tokens"] = min(own["rem_chunk_tokens"], tokens)
        most = own["prefill_max_requests"]
        own["prefill_max_requests"] = limits.requests if most is None else min(most, limits.requests)
        original(*given.args, **given.kwargs)

    def order_victims(self, original: Callable[..., list[int]], reqs: list[Any]) -> list[int]:
        """Instead of the order in which requests are kept, where memory is lacking: the last goes first."""
        order = self._agree(lambda: self._plan_victims(reqs))
        return original(reqs) if order is None else order

    def _plan_prefill(self, waiting_queue: list[Any], running_batch: Any) -> tuple[list[int], Limits] | None:
        chunked = self._scheduler.chunked_req is not None
        if not waiting_queue and not chunked:
            return None
        seen = look(self._scheduler, waiting_queue, running_batch, time.perf_counter())
        plan = self._asked(seen)
        if plan is None:
            return None
        named = set(plan.waiting)
        order = [*plan.waiting, *(row for row in range(len(waiting_queue)) if row not in named)]
        decoding = len(seen.running) - chunked
        requests, tokens = max(0, plan.max_running - decoding), plan.token_budget - decoding
        if chunked or not decoding:  # a prefill that was begun goes on, and something has to
            requests, tokens = max(1, requests), max(1, tokens)
        return order, Limits(requests if tokens > 0 else 0, max(1, tokens))

    def _plan_victims(self, reqs: Sequence[Any]) -> list[int] | None:
        scheduler = self._scheduler
        now_s = time.perf_counter()
        plan = self._asked(look_at(scheduler, scheduler.waiting_queue, list(reqs), [], now_s))
        if plan is None or plan.running is None:
            return None
        first = set(plan.preempt)
        kept = [row for row in plan.running if row not in first]
        return [*kept, *(row for row in plan.running if row in first)]

    def _asked(self, seen: Seen) -> EnginePlan | None:
        planned = self.engine.plan(seen.state)
        return None if planned.policy == "engine" else planned.plan

    def _agree(self, plan: Callable[[], Any]) -> Any:
        """What `plan` returns, in each process of a tensor-parallel group what it returns in the first.

        All schedulers of a group must decide alike, and their clocks differ. None where it fails.
        """
        ranks = self._ranks
        if self._scheduler is None or ranks is None:
            return None
        found = None
        if ranks.first:
            try:
                found = plan()
            except Exception:  # a field that means something else than it did must not end the engine
                self.failures += 1
                if self.failures == 1:
                    _LOG.exception(
                        "the scheduler's state cannot be read: SGLang's own rules decide; said once"
                    )
        return ranks.told(found)


def changed_function() -> str | None:
    """Which hooked function takes other parameters than the hooks know of, and which; None where all fit."""
    for target, known in PARAMETERS.items():
        try:
            found = tuple(inspect.signature(pkgutil.resolve_name(target)).parameters)
        except (ImportError, AttributeError):
            return f"{target} is missing"
        if not set(known) <= set(found) or (target != PREFILL and found != known):
            return f"{target} takes ({', '.join(found)}), which this plugin was not made for"
    return None


@functools.cache
def _signature(function: Callable[..., None]) -> inspect.Signature:
    return inspect.signature(function)


class Ranks(NamedTuple):
    """The processes that schedule the same requests."""

    rank: int
    first_rank: int
    size: int
    group: Any

    @property
    def first(self) -> bool:
        """Whether this process plans for all."""
        return self.rank == self.first_rank

    def told(self, found: Any) -> Any:
        """What the first process has found."""
        if self.size == 1:
            return found
        from sglang.srt.utils import broadcast_pyobj

        return broadcast_pyobj([found], self.rank, self.group, src=self.first_rank)[0]


def ranks_of(scheduler: Any) -> Ranks | None:
    """Those of a scheduler; None where this plugin does not know who must agree, and stays out of it."""
    from sglang.srt.runtime_context import get_parallel

    parallel = get_parallel()
    if parallel.pp_size > 1 or parallel.attn_dp_size > 1 or parallel.attn_cp_size > 1:
        _LOG.warning("pipeline, context or attention-data parallelism: SGLang's own rules decide")
        return None
    if parallel.tp_size == 1:
        return Ranks(0, 0, 1, None)
    group = scheduler.tp_group
    return Ranks(group.rank, group.ranks[0], parallel.tp_size, scheduler.tp_cpu_group)
