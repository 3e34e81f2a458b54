"""Making the state of an elastic fleet, and loading requests into it."""

import math

import numba
import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.calls import Callback, address_of
from servegym.costmodels.native.structs import fields_of, struct
from servegym.envs.sim.elastic.fleet import ElasticFleet
from servegym.envs.sim.elastic.manager import Manager
from servegym.envs.sim.elastic.state import (
    NOBODY,
    NUM_COUNTERS,
    NUM_REQUESTS,
    TO_COME,
    FleetState,
)
from servegym.envs.workloads.workload import Workload

GROUPS_PER_INSTANCE = 4
"""How many groups there can be at once: one that runs, and some at rest with KV on an instance."""


class Simulation:
    """A fleet under a manager, with room for `max_requests` requests; `begin` gives it some.

    state: what compiled code works on, valid as long as this object.
    """

    def __init__(self, fleet: ElasticFleet, manager: Manager, max_requests: int) -> None:
        self.fleet, self.manager, self.max_requests = fleet, manager, max_requests
        self._callbacks: list[Callback] = []
        fields = _new_state(fleet, manager, max_requests)
        self.state: FleetState = struct(self._with_address(fields))

    def begin(self, workload: Workload) -> None:
        """Everything as at the start, with these requests. InputError for too many."""
        count = workload.num_requests
        if count > self.max_requests:
            raise InputError(
                f"workload {workload.name}: {count} requests: must be at most {self.max_requests}"
            )
        state = self.state
        _clear(state)
        state.arrival_s[:count] = workload.arrival_s
        state.prompt[:count] = workload.prompt_tokens
        state.output[:count] = workload.output_tokens
        state.counters[NUM_REQUESTS] = count

    def raise_error(self) -> None:
        """Raises what a manager in Python has raised, if it has."""
        for callback in self._callbacks:
            callback.raise_error()

    def _with_address(self, fields: FleetState) -> FleetState:
        manager = self.manager
        if manager.is_compiled or numba.config.DISABLE_JIT:
            return fields._replace(manage=address_of(manager.manage, numba.typeof(struct(fields))))
        manage = manager.manage
        self._callbacks.append(Callback(lambda _, __: manage(self.state)))
        return fields._replace(callback=self._callbacks[-1].address)


def _new_state(fleet: ElasticFleet, manager: Manager, max_requests: int) -> FleetState:
    instances, largest = fleet.num_instances, fleet.max_group
    groups = GROUPS_PER_INSTANCE * instances
    sizes = (instances, largest, max_requests)
    cost = fleet.cost._replace(decode_s=float(fleet.cost.decode_s), iteration=struct(fleet.cost.iteration))
    return FleetState(
        cost=struct(cost),
        num_instances=instances,
        kv_tokens=fleet.kv_tokens,
        instances_per_node=fleet.instances_per_node,
        max_group=largest,
        arrival_s=np.zeros(max_requests),
        prompt=np.zeros(max_requests, np.int64),
        output=np.zeros(max_requests, np.int64),
        produced=np.zeros(max_requests, np.int64),
        kv=np.zeros((max_requests, instances), np.int32),
        group_of=np.zeros(max_requests, np.int32),
        fate=np.zeros(max_requests, np.int8),
        first_token_s=np.zeros(max_requests),
        finish_s=np.zeros(max_requests),
        limits=np.zeros((max_requests, 2)),
        after=np.zeros(max_requests + 1, np.int32),
        before=np.zeros(max_requests + 1, np.int32),
        used=np.zeros(instances, np.int64),
        runs_for=np.zeros(instances, np.int32),
        size=np.zeros(groups, np.int64),
        requests=np.zeros((groups, largest), np.int32),
        activity=np.zeros(groups, np.int8),
        end_s=np.zeros(groups),
        member=np.zeros((groups, instances), np.int8),
        group_kv=np.zeros((groups, instances), np.int64),
        steps=np.zeros(groups, np.int64),
        steps_to_finish=np.zeros(groups, np.int64),
        num_masters=np.zeros(groups, np.int64),
        masters=np.zeros((groups, instances), np.int32),
        mini_batches=np.zeros((groups, instances), np.int32),
        clock=np.zeros(1),
        counters=np.zeros(NUM_COUNTERS, np.int64),
        error=np.zeros(4, np.int64),
        rates=np.zeros(3),
        costs=np.zeros(4),
        order=np.zeros(instances, np.int32),
        shares=np.zeros(instances, np.int32),
        manage=0,
        callback=0,
        parameters=np.array(manager.parameters, np.float64),
        memory=np.zeros(manager.memory_for(*sizes)),
        integers=np.zeros(manager.integers_for(*sizes), np.int64),
    )


_ZERO = ("produced", "kv", "used", "size", "activity", "clock", "counters", "error", "rates", "costs")
_OF_MANAGER = ("memory", "integers")


def _clear(state: FleetState) -> None:
    """Everything as at the start."""
    fields = fields_of(state)
    for name in _ZERO + _OF_MANAGER:
        getattr(fields, name)[:] = 0
    fields.group_of[:] = NOBODY
    fields.fate[:] = TO_COME
    fields.first_token_s[:] = math.nan
    fields.finish_s[:] = math.nan
    fields.end_s[:] = math.inf
    fields.limits[:] = math.inf
    fields.runs_for[:] = NOBODY
    fields.after[:] = NOBODY
    start = fields.arrival_s.size
    fields.after[start] = start
    fields.before[start] = start
