"""Requests without end through a fleet in bounded memory: the slots of finished requests are used again.

Memory grows with the most requests in flight at a time, not with the requests simulated: `SLOT_BYTES` for
each slot, and at most two slots for each request in flight.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.native.jit import jit
from servegym.costmodels.native.structs import fields_of, struct
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.identities import identities_of
from servegym.envs.sim.llm.needs import refuse_unmet_needs
from servegym.envs.sim.llm.router import Router, random_state
from servegym.envs.sim.llm.setup import ReplicaSpec, load_requests, new_fleet
from servegym.envs.sim.llm.simulate import (
    Counts,
    Results,
    Times,
    refuse_columns,
    route_function,
    run_out,
    write_result,
)
from servegym.envs.sim.llm.state import REQUEST
from servegym.envs.workloads import Workload

MIN_SLOTS = 4096
"""Few enough for the processor's cache, enough that a look for finished requests is rare; at least 4."""

SLOT_BYTES = REQUEST.itemsize + np.dtype(np.int64).itemsize + np.dtype(np.int32).itemsize
"""A request's record, its number in the stream and its place among the free slots."""


class Finished(NamedTuple):
    """Requests that have finished, in no particular order.

    number: int64 (N,), position of each in the stream, from 0. results: theirs, in the same order.
    """

    number: Counts
    results: Results


def simulate_stream(
    chunks: Iterable[Workload],
    router: Router,
    *,
    num_replicas: int,
    engine: Engine,
    cost: IterationCost,
    seed: int = 0,
) -> Iterator[Finished]:
    """Simulates the requests of all chunks to their last token; each comes out once, after it has finished.

    The chunks are one stream: arrival times go on from chunk to chunk, on one clock. The results are those
    of `simulate` on all chunks in one workload, to the bit. Raises InputError where a request can never fit
    into the KV cache or arrives before the last of the chunk before, or the router needs what is not there,
    and ValueError where the router picks no existing replica.
    """
    engine.refuse_agent()
    if engine.prefix_caching or engine.order != "fcfs" or engine.scheduler == "vllm_v0":
        raise InputError(
            f"engine.scheduler = {engine.scheduler}, order = {engine.order}, prefix_caching = "
            f"{engine.prefix_caching}: a stream forgets requests, so it must be first come first served, "
            "without prefix caching and not vllm_v0"
        )
    slots = _Slots(num_replicas, engine, cost)
    route = route_function(slots.fleet, router)
    memory = router.new_memory(num_replicas)
    random = random_state(np.random.SeedSequence(seed))
    previous_s = None
    for chunk in chunks:
        engine.check_fits(chunk)
        refuse_columns(chunk, ("parent", "cancel_after_s", "image_tokens"), "simulate_stream")
        refuse_unmet_needs(f"router {router.name}", router.needs, chunk, [engine])
        previous_s = _continued_from(previous_s, chunk)
        identities = identities_of(chunk, slots.num_loaded)
        first = 0
        while first < chunk.num_requests:
            if slots.num_free == 0:
                yield slots.harvest()
                slots.add_where_few_are_free()
            part = slice(first, min(first + slots.num_free, chunk.num_requests))
            request_ids = slots.load(chunk, part)
            route(
                slots.fleet,
                request_ids,
                identities[part],
                previous_s,
                router.choose,
                router.parameters,
                memory,
                random,
                router.looks,
                False,
            )
            previous_s = float(chunk.arrival_s[part.stop - 1])
            first = part.stop
    run_out(slots.fleet, False)
    yield slots.harvest()


def _continued_from(previous_s: float | None, chunk: Workload) -> float | None:
    """The arrival before the first one of a chunk: that one itself, so without a gap, where there is none."""
    if chunk.num_requests == 0:
        return previous_s
    first_s = float(chunk.arrival_s[0])
    if previous_s is not None and first_s < previous_s:
        raise InputError(
            f"workload {chunk.name!r}: arrival_s starts at {first_s}, must not be before the last arrival of "
            f"the chunk before it, {previous_s}"
        )
    return first_s if previous_s is None else previous_s


class _Slots:
    """A fleet whose requests come and go; a slot is taken from `load` to the `harvest` after the finish."""

    def __init__(self, num_replicas: int, engine: Engine, cost: IterationCost) -> None:
        self.fleet = new_fleet([ReplicaSpec(engine, cost)] * num_replicas, 0)
        self.num_free = 0
        self._free = np.zeros(0, np.int32)  # slots, of which the first `num_free` are free
        self._numbers = np.zeros(0, np.int64)  # of the request in each slot
        self.num_loaded = 0
        self._add(MIN_SLOTS)

    def load(self, chunk: Workload, part: slice) -> np.ndarray:
        """Puts a part of a chunk, at most `num_free` requests, into free slots; returns these, int32."""
        count = part.stop - part.start
        self.num_free -= count
        request_ids = self._free[self.num_free : self.num_free + count]
        load_requests(self.fleet, request_ids, chunk, part)
        self._numbers[request_ids] = np.arange(self.num_loaded, self.num_loaded + count)
        self.num_loaded += count
        return request_ids

    def harvest(self) -> Finished:
        """Takes out the requests that have finished."""
        most = self._free.size - self.num_free
        times, counts, number = np.empty((4, most)), np.empty((5, most), np.int64), np.empty(most, np.int64)
        count = _take_finished(
            self.fleet.requests, self._numbers, self._free[self.num_free :], number, times, counts
        )
        self.num_free += count
        return Finished(number[:count], Results.of_columns(times[:, :count], counts[:, :count]))

    def add_where_few_are_free(self) -> None:
        """Half as many slots again where less than a quarter is free, so that harvests stay rare."""
        if self.num_free < self._free.size // 4:
            self._add(self._free.size // 2)

    def _add(self, count: int) -> None:
        size = self._free.size
        more = np.zeros(count, REQUEST)
        more["finish_s"] = np.nan
        requests = np.concatenate([self.fleet.requests.view(np.ndarray).view(REQUEST), more])
        self.fleet = struct(fields_of(self.fleet)._replace(requests=requests.view(np.recarray)))
        self._numbers = np.concatenate([self._numbers, np.zeros(count, np.int64)])
        self._free = np.concatenate([np.arange(size, size + count, dtype=np.int32), self._free])
        self.num_free += count


@jit
def _take_finished(
    requests: np.ndarray, numbers: np.ndarray, freed: np.ndarray, number: Counts, times: Times, counts: Counts
) -> int:
    """Copies what happened to the finished requests and lists their slots in `freed`; returns how many."""
    count = 0
    for slot in range(requests.size):
        request = requests[slot]
        if not np.isnan(request.finish_s):
            write_result(request, count, 0, times, counts)
            number[count] = numbers[slot]
            freed[count] = slot
            request.finish_s = np.nan
            count += 1
    return count
