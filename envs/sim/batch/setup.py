"""Making the state of a cluster, and loading requests into it."""

import math

import numba
import numpy as np
from numba import types

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.calls import Callback, address_of
from servegym.costmodels.native.jit import jit
from servegym.costmodels.native.structs import fields_of, struct
from servegym.envs.sim.batch.actions import show_gpu
from servegym.envs.sim.batch.autoscaler import SCALE, SIGNAL_COLUMNS, Autoscaler
from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.min_tree import new_tree
from servegym.envs.sim.batch.scheduler import BatchScheduler
from servegym.envs.sim.batch.state import (
    ACTIVE,
    BATCH,
    INACTIVE,
    NEXT_SCALE,
    NOBODY,
    NUM_ACTIVE,
    NUM_CLOCKS,
    NUM_COUNTERS,
    NUM_REQUESTS,
    ClusterState,
)
from servegym.envs.workloads.batch_workload import BatchWorkload


class Simulation:
    """A cluster under a scheduler, with room for `max_requests` requests; `begin` gives it some.

    state: what compiled code works on, valid as long as this object.
    """

    def __init__(
        self,
        cluster: BatchCluster,
        scheduler: BatchScheduler,
        max_requests: int,
        autoscaler: Autoscaler | None = None,
    ) -> None:
        if autoscaler is not None and autoscaler.initial > cluster.num_gpus:
            raise InputError(
                f"autoscaler {autoscaler.name}: initial = {autoscaler.initial}: must be at most the "
                f"cluster's {cluster.num_gpus} GPUs"
            )
        self.cluster, self.scheduler, self.autoscaler = cluster, scheduler, autoscaler
        self.max_requests = max_requests
        self._callbacks: list[Callback] = []
        fields = _new_state(cluster, scheduler, max_requests, autoscaler)
        self.state: ClusterState = struct(self._with_addresses(fields))

    def begin(self, workload: BatchWorkload) -> None:
        """Everything as at the start, with these requests. InputError for too many, or unknown models."""
        count = len(workload.arrival_s)
        if count > self.max_requests:
            raise InputError(
                f"workload {workload.name}: {count} requests: must be at most {self.max_requests}"
            )
        num_models = len(self.cluster.models)
        if count and int(workload.model.max()) >= num_models:
            raise InputError(
                f"workload {workload.name}: model {int(workload.model.max())}: must be below the cluster's "
                f"{num_models}"
            )
        _clear(self.state, self.cluster, self.autoscaler)
        state = self.state
        state.arrival_s[:count] = workload.arrival_s
        state.model[:count] = workload.model
        state.counters[NUM_REQUESTS] = count
        per_model = np.bincount(workload.model, minlength=num_models)
        state.head[:] = np.cumsum(per_model) - per_model
        state.tail[:] = state.head

    def raise_error(self) -> None:
        """Raises what a scheduler or autoscaler in Python has raised, if one has."""
        for callback in self._callbacks:
            callback.raise_error()

    def _with_addresses(self, fields: ClusterState) -> ClusterState:
        scheduler, autoscaler = self.scheduler, self.autoscaler
        if scheduler.is_compiled or numba.config.DISABLE_JIT:
            kind = numba.typeof(struct(fields))
            address = address_of(scheduler.schedule, kind, types.int64, types.int64)
            fields = fields._replace(schedule=address)
        else:
            schedule = scheduler.schedule
            self._callbacks.append(Callback(lambda event, subject: schedule(self.state, event, subject)))
            fields = fields._replace(callback=self._callbacks[-1].address)
        if autoscaler is None:
            return fields
        if autoscaler.is_compiled or numba.config.DISABLE_JIT:
            return fields._replace(scale=address_of(autoscaler.scale, *SCALE.args))
        scale, arrays = autoscaler.scale, (fields.signal, fields.scale_parameters, fields.scale_memory)
        self._callbacks.append(Callback(lambda _, __: scale(*arrays, fields.wanted)))
        return fields._replace(scale_callback=self._callbacks[-1].address)


def _new_state(
    cluster: BatchCluster, scheduler: BatchScheduler, max_requests: int, autoscaler: Autoscaler | None
) -> ClusterState:
    num_models, num_gpus, delays = len(cluster.models), cluster.num_gpus, cluster.delays
    largest = max(model.max_batch for model in cluster.models)
    latency_s = np.full((num_models, largest + 1), math.inf)
    energy_j = np.zeros((num_models, largest + 1))
    for number, model in enumerate(cluster.models):
        latency_s[number, 1 : model.max_batch + 1] = model.latency_s
        if model.energy_j:
            energy_j[number, 1 : model.max_batch + 1] = model.energy_j
    return ClusterState(
        num_models=num_models,
        num_gpus=num_gpus,
        control_s=float(delays.control_s),
        data_s=float(delays.data_s),
        response_s=float(delays.response_s),
        has_limited_memory=int(cluster.has_limited_memory),
        latency_s=latency_s,
        energy_j=energy_j,
        max_batch=np.array([model.max_batch for model in cluster.models], np.int64),
        slo_s=np.array([model.slo_s for model in cluster.models], np.float64),
        arrival_s=np.zeros(max_requests),
        model=np.zeros(max_requests, np.int32),
        batch_of=np.zeros(max_requests, np.int32),
        next_in_batch=np.zeros(max_requests, np.int32),
        drop_s=np.zeros(max_requests),
        queue=np.zeros(max_requests, np.int32),
        head=np.zeros(num_models, np.int64),
        tail=np.zeros(num_models, np.int64),
        batches=np.zeros(max_requests, BATCH).view(np.recarray),  # attributes in plain Python, too
        free_rows=np.zeros(max_requests, np.int32),
        status=np.zeros(num_gpus, np.int8),
        held=np.zeros(num_gpus, np.int64),
        holds=np.zeros((num_gpus, 2), np.int32),
        last_ended=np.zeros(num_gpus, np.int32),
        free_at_s=np.zeros(num_gpus),
        starts_at_s=np.zeros(num_gpus),
        used_from_s=np.zeros(num_gpus),
        used_s=np.zeros(num_gpus),
        busy_s=np.zeros(num_gpus),
        next_free=new_tree(num_gpus),
        with_room=new_tree(num_gpus),
        idle=new_tree(num_gpus),
        memory_bytes=np.array([model.memory_bytes for model in cluster.models], np.float64),
        load_s=np.array([model.load_s for model in cluster.models], np.float64),
        room_bytes=np.zeros(num_gpus),
        loaded_s=np.zeros((num_gpus, num_models)),
        used_at_s=np.zeros((num_gpus, num_models)),
        timers=new_tree(num_models + 1),
        clock=np.zeros(NUM_CLOCKS),
        counters=np.zeros(NUM_COUNTERS, np.int64),
        error=np.zeros(4, np.int64),
        schedule=0,
        callback=0,
        parameters=np.array(scheduler.parameters, np.float64),
        memory=np.zeros(scheduler.memory_size + scheduler.memory_for(num_models, num_gpus)),
        model_memory=np.zeros((num_models, scheduler.memory_per_model)),
        gpu_memory=np.zeros((num_gpus, scheduler.memory_per_gpu)),
        pool=new_tree(num_models),
        scale=0,
        scale_callback=0,
        every_s=float(autoscaler.every_s) if autoscaler else math.inf,
        startup_s=float(autoscaler.startup_s) if autoscaler else 0.0,
        scale_parameters=np.array(autoscaler.parameters if autoscaler else [], np.float64),
        scale_memory=np.zeros(autoscaler.memory_size if autoscaler else 0),
        signal=np.zeros(SIGNAL_COLUMNS),
        wanted=np.zeros(1, np.int64),
        arrived=np.zeros(num_models, np.int64),
        ended_before=np.zeros(2, np.int64),
        busy_before_s=np.zeros(1),
    )


_ZERO = (
    "held",
    "free_at_s",
    "used_s",
    "busy_s",
    "used_at_s",
    "clock",
    "counters",
    "error",
    "memory",
    "model_memory",
    "gpu_memory",
    "scale_memory",
    "arrived",
    "ended_before",
    "busy_before_s",
)


def _clear(state: ClusterState, cluster: BatchCluster, autoscaler: Autoscaler | None) -> None:
    """Everything as at the start."""
    fields = fields_of(state)
    for name in _ZERO:
        getattr(fields, name)[:] = 0
    for tree in (fields.next_free, fields.with_room, fields.idle, fields.timers, fields.pool):
        tree[:] = math.inf
    fields.batch_of[:] = NOBODY
    fields.last_ended[:] = NOBODY
    fields.drop_s[:] = math.nan
    active = autoscaler.initial if autoscaler else cluster.num_gpus
    fields.status[:active] = ACTIVE
    fields.status[active:] = INACTIVE
    fields.used_from_s[:active] = 0.0
    fields.used_from_s[active:] = math.nan
    fields.counters[NUM_ACTIVE] = active
    fields.clock[NEXT_SCALE] = fields.every_s
    _load_models(fields, cluster)
    _show_gpus(state)


@jit
def _show_gpus(state: ClusterState) -> None:
    for gpu in range(state.num_gpus):
        show_gpu(state, gpu)


def _load_models(fields: ClusterState, cluster: BatchCluster) -> None:
    """What GPUs have in their memory at the start."""
    fields.loaded_s[:] = 0.0
    fields.room_bytes[:] = cluster.gpu_memory_bytes
    if cluster.has_limited_memory:
        sizes = np.array([model.memory_bytes for model in cluster.models])
        fits = np.cumsum(sizes) <= cluster.gpu_memory_bytes
        fields.loaded_s[:, ~fits] = math.inf
        fields.room_bytes[:] -= sizes[fits].sum()
