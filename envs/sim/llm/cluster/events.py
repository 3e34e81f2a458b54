"""Fleet events: a binary heap by time, and of equal times by the order in which they were scheduled."""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.cluster.state import Cluster


@kernel
def _is_before(time_s: float, number: int, event: np.record) -> bool:
    if time_s != event.time_s:
        return bool(time_s < event.time_s)
    return bool(number < event.number)


@routine
def schedule(cluster: Cluster, time_s: float, kind: int, subject: int, serial: int) -> None:
    """Something will happen at `time_s`; never, where that is infinite."""
    if time_s == np.inf:
        return
    control = cluster.control[0]
    events = cluster.events
    number = control.num_events
    control.num_events += 1
    position = control.heap_size
    control.heap_size += 1
    while position > 0:
        parent = (position - 1) >> 1
        if not _is_before(time_s, number, events[parent]):
            break
        events[position] = events[parent]
        position = parent
    event = events[position]
    event.time_s = time_s
    event.number = number
    event.kind = kind
    event.subject = subject
    event.serial = serial


@routine
def drop_first(cluster: Cluster) -> None:
    """Takes the first event, `cluster.events[0]`, out of the heap."""
    control = cluster.control[0]
    events = cluster.events
    control.heap_size -= 1
    size = control.heap_size
    last = events[size]
    position = 0
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        if child + 1 < size and _is_before(events[child + 1].time_s, events[child + 1].number, events[child]):
            child += 1
        if _is_before(last.time_s, last.number, events[child]):
            break
        events[position] = events[child]
        position = child
    events[position] = events[size]
