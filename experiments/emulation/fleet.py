"""The simulator's own replicas, taken through time from outside, for requests without end in bounded memory.

All times are seconds of the model, on whatever clock the caller has.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.structs import fields_of, struct
from servegym.envs.sim.llm.log import counting_log, recording_log
from servegym.envs.sim.llm.prefix_state import load_contents
from servegym.envs.sim.llm.setup import ReplicaSpec, load_requests, new_fleet
from servegym.envs.sim.llm.stepping import begin, complete, enter, leave, observe
from servegym.envs.sim.llm.view import REPLICA_COLUMNS, REPLICA_FEATURES
from servegym.envs.workloads import Workload

MAX_REQUESTS = 16384
"""In flight at a time, on all replicas together."""

NO_KEYS = np.zeros(0, np.int64)

_NO_PARENT = np.full(1, -1, np.int32)


class CannotServe(InputError):
    """A request that no engine state could ever serve: it does not fit."""


class FleetIsFull(Exception):
    """There are `max_requests` requests in flight."""


class Arrival(NamedTuple):
    """A request as an engine gets it.

    predicted_tokens: 0 without a prediction. block_keys: int64, of the full KV blocks of its prompt, equal
    where content and everything before it are equal; not looked at without prefix caching.
    """

    prompt_tokens: int
    output_tokens: int
    predicted_tokens: int = 0
    priority: int = 0
    block_keys: np.ndarray = NO_KEYS


class Iteration(NamedTuple):
    """An iteration at whose end, `end_s`, the requests in `slots` sampled their tokens `numbers`, from 1."""

    end_s: float
    slots: list[int]
    numbers: list[int]


_NOTHING = Iteration(math.inf, [], [])


class ReplicaCounts:
    """What a replica has done since it started.

    prefix_queries, prefix_hits: tokens looked up at first admissions, and found.
    """

    def __init__(self) -> None:
        self.received_requests = 0
        self.received_prompt_tokens = 0
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0


class EmulatedFleet:
    """Replicas of the simulator, each of which is taken forward by itself, iteration by iteration.

    max_requests: in flight at a time. prediction_refinement: `Workload.prediction_refinement` of all of them.
    A request is known by its slot, from `submit` until its last token has come or it has left.
    """

    def __init__(
        self,
        replicas: Sequence[ReplicaSpec],
        *,
        max_requests: int = MAX_REQUESTS,
        prediction_refinement: float | None = None,
    ) -> None:
        counted = counting_log()
        counted.counts[:2] = 1, max(spec.engine.max_num_seqs for spec in replicas)
        self._log = recording_log(counted)
        self._caches = any(spec.engine.prefix_caching for spec in replicas)
        self.fleet = new_fleet(replicas, max_requests, log=self._log)
        self.fleet.refinement[0] = prediction_refinement or 0.0
        self.engines = [spec.engine for spec in replicas]
        self.counts = [ReplicaCounts() for _ in replicas]
        fields = self.fleet.requests.view(np.ndarray)
        self._prompt, self._output = fields["prompt_tokens"], fields["output_tokens"]
        self._generated, self._preemptions = fields["generated"], fields["preemptions"]
        of_replicas = self.fleet.replicas.view(np.ndarray)
        self._clock_s, self._in_flight = of_replicas["clock_s"], of_replicas["in_flight"]
        self._num_unfinished = of_replicas["num_unfinished"]
        self._free = list(range(max_requests - 1, -1, -1))
        self._due = [_NOTHING] * len(replicas)  # of the iteration in flight
        self._leaving: list[list[int]] = [[] for _ in replicas]  # slots that leave when it has ended
        self._num_keys = 0  # in use in the prefix cache, with gaps
        self._num_contents = 0
        self._row = np.zeros(REPLICA_FEATURES)

    def submit(self, replica_id: int, request: Arrival, now_s: float) -> int:
        """A request reaches a replica that has been advanced to `now_s`; returns its slot.

        CannotServe where it does not fit into the engine, FleetIsFull where too many are in flight.
        """
        workload = Workload(
            name="request",
            arrival_s=np.array([now_s]),
            prompt_tokens=np.array([request.prompt_tokens]),
            output_tokens=np.array([request.output_tokens]),
            predicted_output_tokens=np.array([request.predicted_tokens])
            if request.predicted_tokens
            else None,
        )
        try:
            self.engines[replica_id].check_fits(workload)
        except InputError as error:
            raise CannotServe(str(error)) from None
        if not self._free:
            raise FleetIsFull(f"{len(self._output)} requests are in flight")
        slot = self._free.pop()
        refinement = float(self.fleet.refinement[0])
        load_requests(self.fleet, np.array([slot], np.int32), workload)
        self.fleet.refinement[0] = refinement
        self.fleet.requests[slot].priority = request.priority
        if self._caches:
            self._load_contents(slot, request.block_keys)
        enter(self.fleet, replica_id, slot, now_s)
        counts = self.counts[replica_id]
        counts.received_requests += 1
        counts.received_prompt_tokens += request.prompt_tokens
        return slot

    def withdraw(self, replica_id: int, slot: int, now_s: float) -> None:
        """A request in flight leaves, as soon as the iteration that serves it has ended.

        The replica has been advanced to `now_s`. Its tokens may come until it has left.
        """
        if leave(self.fleet, replica_id, slot, now_s):
            self._release(slot)
        elif slot not in self._leaving[replica_id]:
            self._leaving[replica_id].append(slot)

    def due_s(self, replica_id: int) -> float:
        """When a replica has next to be advanced if nobody comes or leaves: inf where nothing will happen."""
        if self._in_flight[replica_id] or self._num_unfinished[replica_id] > 0:
            return float(self._clock_s[replica_id])
        return math.inf

    def advance(self, replica_id: int, now_s: float, *, starting: bool = False) -> list[Iteration]:
        """Completes the iterations that end by `now_s`, and returns them; starts those that start before it.

        starting: those that start at `now_s` as well: nobody arrives at that instant any more.
        """
        done: list[Iteration] = []
        while True:
            if self._in_flight[replica_id]:
                if self._clock_s[replica_id] > now_s:
                    return done
                done.append(self._complete(replica_id))
            start_s = self._clock_s[replica_id]
            due = start_s <= now_s if starting else start_s < now_s
            if not due or not self._num_unfinished[replica_id] or not self._begin(replica_id):
                return done

    def row(self, replica_id: int, now_s: float) -> dict[str, float]:
        """What a router sees of a replica that has been advanced to `now_s`: REPLICA_COLUMNS by name.

        As in the simulator's own view; what depends on the request or on the router is 0.
        """
        observe(self.fleet, replica_id, now_s, self._row)
        return {name: value for (name, _), value in zip(REPLICA_COLUMNS, self._row.tolist(), strict=True)}

    @property
    def num_in_flight(self) -> int:
        """Requests on all replicas."""
        return len(self._output) - len(self._free)

    def _begin(self, replica_id: int) -> bool:
        """Starts an iteration and notes who will sample a token."""
        self._log.counts[:] = 0
        if not begin(self.fleet, replica_id):
            return False
        _, num_entries, preemptions, _ = self._log.counts.tolist()
        entries = self._log.entries.view(np.ndarray)[:num_entries]
        slots, prefills, computed = entries["request"], entries["is_prefill"], entries["computed"]
        last = computed + entries["tokens"]
        prompt = self._prompt[slots]
        samples = ~prefills | (last == prompt + self._generated[slots])
        numbers = last - prompt + 1
        self._due[replica_id] = Iteration(
            float(self._clock_s[replica_id]), slots[samples].tolist(), numbers[samples].tolist()
        )
        counts = self.counts[replica_id]
        counts.preemptions += preemptions
        if self.engines[replica_id].prefix_caching:
            hits = entries["hit_tokens"]
            admitted = prefills & (computed == hits) & (self._preemptions[slots] == 0)
            counts.prefix_queries += int(prompt[admitted].sum())
            counts.prefix_hits += int(hits[admitted].sum())
        return True

    def _complete(self, replica_id: int) -> Iteration:
        """Ends the iteration in flight; who has finished or wanted to leave is gone."""
        complete(self.fleet, replica_id)
        iteration, self._due[replica_id] = self._due[replica_id], _NOTHING
        ended = set()
        for slot, number in zip(iteration.slots, iteration.numbers, strict=True):
            if number == self._output[slot]:
                ended.add(slot)
                self._release(slot)
        leaving, self._leaving[replica_id] = self._leaving[replica_id], []
        for slot in leaving:
            if slot not in ended:
                leave(self.fleet, replica_id, slot, iteration.end_s)
                self._release(slot)
        return iteration

    def _release(self, slot: int) -> None:
        if self._caches:
            self.fleet.cache.requests[slot].num_shared = 0
        self._free.append(slot)

    def _load_contents(self, slot: int, keys: np.ndarray) -> None:
        if self._num_keys + len(keys) > len(self.fleet.cache.block_keys):
            self._make_room(len(keys))
        offsets = np.array([0, len(keys)], np.int64)
        load_contents(self.fleet.cache, slot, self._num_keys, self._num_contents, keys, offsets, _NO_PARENT)
        self._num_keys += len(keys)
        self._num_contents += 1

    def _make_room(self, count: int) -> None:
        """Moves the keys of those in flight together, into twice the room that they and `count` more need."""
        cache = self.fleet.cache
        contents = cache.requests.view(np.ndarray)
        live = np.flatnonzero(contents["num_shared"])
        used = int(contents["num_shared"][live].sum())
        size = max(len(cache.block_keys), 2 * (used + count))
        block_keys, held_nodes = np.zeros(size, np.int64), np.zeros(size, np.int32)
        at = 0
        for slot in live:
            first, length = contents["first_key"][slot], contents["num_shared"][slot]
            block_keys[at : at + length] = cache.block_keys[first : first + length]
            held_nodes[at : at + length] = cache.held_nodes[first : first + length]
            contents["first_key"][slot] = at
            at += length
        self._num_keys = at
        moved = struct(fields_of(cache)._replace(block_keys=block_keys, held_nodes=held_nodes))
        self.fleet = struct(fields_of(self.fleet)._replace(cache=moved))
