"""What an agent observes: instances, groups, who holds KV where, who waits, and what each action would mean.

Raw units, as networks normalise inside. Only what a manager could know; it knows how long outputs will be, as
the clients of LoongServe's artifact say so (its memory test needs it).

    globals    float32 (GLOBAL_FEATURES,)          the kind of question, the queue, the fleet
    choices    float32 (2 N + 4, CHOICE_FEATURES)  a row for each action; 0 where it is not legal
    instances  float32 (N, INSTANCE_FEATURES)
    groups     float32 (2 N, GROUP_FEATURES)       by number; 0 where there is none
    members    float32 (2 N, N)                    KV tokens of each group on each instance
    requests   float32 (NUM_SEEN, REQUEST_FEATURES)  the first that wait, in order; 0 where there are fewer

`*_COLUMNS` name the columns with their units. When an episode is over all is 0. Flat, this is one Box: the
arrays in this order, each row by row.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from servegym.costmodels.elastic.cost import (
    attention_seconds,
    master_seconds,
    migration_seconds,
    prefill_seconds,
)
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.elastic_sequence_parallel.asking import GO_ON, LESS, MERGE, MORE, PREFILL
from servegym.envs.elastic_sequence_parallel.memory import (
    ARRIVAL,
    BEGINS_S,
    GAIN,
    HAD,
    NUM_HAD,
    NUM_WINDOW,
    OWNER,
    PAUSED_REQUESTS,
    SECONDS,
    SINCE_PREFILL,
    SINCE_SCALING,
    SIZE,
    SLOTS,
    STAGE,
    SUBJECT,
    TOKENS,
    of_batch,
    of_group,
    of_instance,
    of_window,
)
from servegym.envs.elastic_sequence_parallel.prefilling import (
    find_window,
    is_idle,
    is_pending,
)
from servegym.envs.elastic_sequence_parallel.scaling import (
    MASTER_BATCH,
    idle_instance,
    least_member,
    partner,
)
from servegym.envs.flat import flat_space
from servegym.envs.sim.elastic.accrual import FIRST_TOKEN_S
from servegym.envs.sim.elastic.fleet_use import num_members, requests_in_groups, room_of
from servegym.envs.sim.elastic.groups import free_tokens, prefill_tokens, tokens_out
from servegym.envs.sim.elastic.state import (
    DECODES,
    NOBODY,
    NUM_WAITING,
    PREFILLS,
    RESTS,
    FleetState,
)

Observation = dict[str, np.ndarray]

NUM_SEEN = 16
"""Requests that wait of which the agent sees a row."""

MOST_S = 1e6
"""The most that a time is."""

GLOBAL_COLUMNS = (
    ("prefill", "0 or 1"),  # asked whether and what to prefill; else how a group goes on
    ("waiting", "requests"),
    ("window_tokens", "tokens"),  # of the first 64 that wait
    ("oldest_wait_s", "s"),  # of the first of the queue
    ("in_groups", "requests"),
    ("used_tokens", "tokens"),
    ("free_tokens", "tokens"),
    ("idle", "instances"),  # with which nobody goes on
    ("had", "instances"),  # that can be had, for a prefill
    ("total_rate", "1/token"),  # a second's growth of normalised latency of all in the system; likewise below
    ("input_rate", "1/token"),
    ("output_rate", "1/token"),
)
"""Name and unit of each global number, in order."""

CHOICE_COLUMNS = (
    ("legal", "0 or 1"),
    ("requests", "requests"),  # of the batch; of the group
    ("tokens", "tokens"),  # of the batch; of the KV that moves
    ("seconds", "s"),  # of the prefill; of the group's next iteration, about
    ("begins_s", "s"),  # until then
    ("gain", "1/token"),  # the sum of 1 / n over the batch
    ("instances", "instances"),
    ("slots", "tokens"),  # free on them, before it begins
    ("interrupted", "requests"),  # in groups that stop for the prefill; of the group that is joined
    ("interrupted_out", "1/token"),  # the sum of 1 / out over them
    ("interrupted_rate", "1/token"),  # the sum of 1 / (o - 1) over them
)
"""Name and unit of each number of an action, in order."""

INSTANCE_COLUMNS = (
    ("free_tokens", "tokens"),
    ("used_tokens", "tokens"),
    ("prefills", "0 or 1"),
    ("decodes", "0 or 1"),
    ("until_free_s", "s"),  # of the iteration it runs
    ("idle", "0 or 1"),  # nobody goes on with it
    ("rank", ""),  # its place among those that can be had, from 1 on; 0: it cannot
    ("node", ""),  # its number
)
"""Name and unit of each number of an instance, in order."""

GROUP_COLUMNS = (
    ("asked", "0 or 1"),
    ("requests", "requests"),
    ("kv_tokens", "tokens"),
    ("instances", "instances"),
    ("free_tokens", "tokens"),  # on its members
    ("prefills", "0 or 1"),
    ("decodes", "0 or 1"),
    ("pending", "0 or 1"),  # it waits for a prefill on one of its members
    ("until_end_s", "s"),  # of the iteration it runs
    ("since_prefill", "iterations"),  # since it could be interrupted, and was not
    ("since_scaling", "iterations"),  # since the agent was asked how it shall go on
    ("out", "1/token"),  # the sum of 1 / out over its requests
    ("output_rate", "1/token"),  # the sum of 1 / (o - 1)
    ("most_left", "tokens"),  # output of the request that has most to come
    ("least_left", "tokens"),
)
"""Name and unit of each number of a group, in order."""

REQUEST_COLUMNS = (
    ("tokens", "tokens"),  # of its prefill
    ("output_left", "tokens"),
    ("wait_s", "s"),  # since its arrival
    ("alone_s", "s"),  # its prefill alone on the whole fleet
    ("slack_s", "s"),  # until its first token is late
)
"""Name and unit of each number of a request that waits, in order."""

GLOBAL_FEATURES, CHOICE_FEATURES, INSTANCE_FEATURES, GROUP_FEATURES, REQUEST_FEATURES = map(
    len, (GLOBAL_COLUMNS, CHOICE_COLUMNS, INSTANCE_COLUMNS, GROUP_COLUMNS, REQUEST_COLUMNS)
)

CHOICE, GROUP = (
    {name: column for column, (name, _) in enumerate(columns)} for columns in (CHOICE_COLUMNS, GROUP_COLUMNS)
)
"""Columns by name."""

LEGAL, SLACK_S = 0, 4
_GROUP_OUT, _GROUP_RATE = 11, 12


def num_actions(num_instances: int) -> int:
    """Of a fleet: go on, prefills of two orders on 1 to N instances, three ways to go on otherwise."""
    return 2 * num_instances + 4


def arrays(num_episodes: int, num_instances: int) -> Observation:
    """What is observed of K episodes, empty."""
    shapes = {
        "globals": (GLOBAL_FEATURES,),
        "choices": (num_actions(num_instances), CHOICE_FEATURES),
        "instances": (num_instances, INSTANCE_FEATURES),
        "groups": (2 * num_instances, GROUP_FEATURES),
        "members": (2 * num_instances, num_instances),
        "requests": (NUM_SEEN, REQUEST_FEATURES),
    }
    return {name: np.zeros((num_episodes, *shape), np.float32) for name, shape in shapes.items()}


def observation_space(num_instances: int, flat: bool) -> gym.Space[Any]:
    """The space of one episode's observation."""
    spaces: dict[str, gym.Space[Any]] = {}
    for name, array in arrays(1, num_instances).items():
        least = np.zeros(array.shape[1:], np.float32)
        if name == "requests":
            least[:, SLACK_S] = -np.inf
        spaces[name] = gym.spaces.Box(least, np.inf, dtype=np.float32)
    space = gym.spaces.Dict(spaces)
    return flat_space(space, tuple(spaces)) if flat else space


def legal_actions(observation: Observation) -> np.ndarray:
    """bool (..., 2 N + 4), from what is observed: True where an action is legal."""
    legal: np.ndarray = observation["choices"][..., LEGAL] > 0
    return legal


@routine
def observe(
    state: FleetState,
    masks: np.ndarray,
    overall: np.ndarray,
    choices: np.ndarray,
    instances: np.ndarray,
    groups: np.ndarray,
    edges: np.ndarray,
    requests: np.ndarray,
) -> None:
    """Writes what is seen while a question is due, with its `masks`."""
    prefill = state.integers[STAGE] == PREFILL
    if not prefill:
        find_window(state)
    for group in range(2 * state.num_instances):
        _write_group(state, group, not prefill, groups[group])
        for instance in range(state.num_instances):
            there = state.size[group] > 0
            edges[group, instance] = state.group_kv[group, instance] if there else 0
    for instance in range(state.num_instances):
        _write_instance(state, instance, instances[instance])
    _write_requests(state, requests)
    for action in range(choices.shape[0]):
        for column in range(CHOICE_FEATURES):
            choices[action, column] = 0.0
    if prefill:
        _write_prefills(state, choices, groups)
        for at in range(state.integers[NUM_HAD]):
            instances[state.integers[of_instance(state, HAD, at)], 6] = at + 1
    else:
        _write_scalings(state, masks, choices, groups)
    for action in range(choices.shape[0]):
        choices[action, LEGAL] = masks[action]
    _write_globals(state, prefill, overall)


@kernel
def _write_globals(state: FleetState, prefill: bool, row: np.ndarray) -> None:
    used, idle, tokens = 0, 0, 0
    for instance in range(state.num_instances):
        used += state.used[instance]
        idle += is_idle(state, instance)
    waiting = state.integers[of_window(state, ARRIVAL) :]
    for at in range(state.integers[NUM_WINDOW]):
        tokens += prefill_tokens(state, waiting[at])
    row[0] = prefill
    row[1] = state.counters[NUM_WAITING]
    row[2] = tokens
    row[3] = state.clock[0] - state.arrival_s[waiting[0]] if state.integers[NUM_WINDOW] > 0 else 0.0
    row[4] = requests_in_groups(state)
    row[5] = used
    row[6] = state.num_instances * state.kv_tokens - used
    row[7] = idle
    row[8] = state.integers[NUM_HAD] if prefill else 0
    for kind in range(3):
        row[9 + kind] = max(0.0, state.rates[kind])


@kernel
def _write_instance(state: FleetState, instance: int, row: np.ndarray) -> None:
    group = state.runs_for[instance]
    runs = group != NOBODY
    row[0] = free_tokens(state, instance)
    row[1] = state.used[instance]
    row[2] = runs and state.activity[group] == PREFILLS
    row[3] = runs and state.activity[group] == DECODES
    row[4] = state.end_s[group] - state.clock[0] if runs else 0.0
    row[5] = is_idle(state, instance)
    row[6] = 0
    row[7] = instance // state.instances_per_node


@routine
def _write_group(state: FleetState, group: int, may_be_asked: bool, row: np.ndarray) -> None:
    if state.size[group] == 0:
        for column in range(GROUP_FEATURES):
            row[column] = 0.0
        return
    tokens = 0
    for instance in range(state.num_instances):
        tokens += state.group_kv[group, instance]
    out, rate = 0.0, 0.0
    most, least = 0, 2**62
    for at in range(state.size[group]):
        request = state.requests[group, at]
        done = tokens_out(state, request)
        left = state.output[request] - done
        out += 1 / max(1, done)
        rate += 1 / max(1, state.output[request] - 1)
        most = max(most, left)
        least = min(least, left)
    row[0] = may_be_asked and state.integers[SUBJECT] == group
    row[1] = state.size[group]
    row[2] = tokens
    row[3] = num_members(state, group)
    row[4] = room_of(state, group)
    row[5] = state.activity[group] == PREFILLS
    row[6] = state.activity[group] == DECODES
    row[7] = is_pending(state, group)
    row[8] = 0.0 if state.activity[group] == RESTS else state.end_s[group] - state.clock[0]
    row[9] = state.integers[of_group(state, SINCE_PREFILL, group)]
    row[10] = state.integers[of_group(state, SINCE_SCALING, group)]
    row[_GROUP_OUT] = out
    row[_GROUP_RATE] = rate
    row[13] = most
    row[14] = least


@routine
def _write_requests(state: FleetState, rows: np.ndarray) -> None:
    waiting = state.integers[of_window(state, ARRIVAL) :]
    crosses = 1 if state.num_instances > state.instances_per_node else 0
    for at in range(NUM_SEEN):
        row = rows[at]
        if at >= state.integers[NUM_WINDOW]:
            for column in range(REQUEST_FEATURES):
                row[column] = 0.0
            continue
        request = waiting[at]
        tokens = prefill_tokens(state, request)
        waits_s = state.clock[0] - state.arrival_s[request]
        row[0] = tokens
        row[1] = state.output[request] - state.produced[request]
        row[2] = waits_s
        row[3] = prefill_seconds(state.cost, crosses, state.num_instances, tokens, tokens * tokens)
        has_begun = state.produced[request] > 0
        row[SLACK_S] = MOST_S if has_begun else min(MOST_S, state.limits[request, FIRST_TOKEN_S] - waits_s)


@routine
def _write_prefills(state: FleetState, choices: np.ndarray, groups: np.ndarray) -> None:
    for order in range(2):
        out, rate, last = 0.0, 0.0, -1
        for degree in range(1, state.integers[NUM_HAD] + 1):
            instance = state.integers[of_instance(state, HAD, degree - 1)]
            owner = state.integers[of_instance(state, OWNER, instance)] - 1
            if owner >= 0 and owner != last:
                out += groups[owner, _GROUP_OUT]
                rate += groups[owner, _GROUP_RATE]
                last = owner
            row = choices[order * state.num_instances + degree]
            batch = of_batch(state, order, degree, 0)
            if state.memory[batch + SIZE] == 0:
                continue
            row[1] = state.memory[batch + SIZE]
            row[2] = state.memory[batch + TOKENS]
            row[3] = state.memory[batch + SECONDS]
            row[4] = state.memory[batch + BEGINS_S]
            row[5] = state.memory[batch + GAIN]
            row[6] = degree
            row[7] = state.memory[batch + SLOTS]
            row[8] = state.memory[batch + PAUSED_REQUESTS]
            row[9] = out
            row[10] = rate


@routine
def _write_scalings(state: FleetState, masks: np.ndarray, choices: np.ndarray, groups: np.ndarray) -> None:
    group, first = state.integers[SUBJECT], 2 * state.num_instances
    size, slots, count = state.size[group], room_of(state, group), num_members(state, group)
    row = choices[GO_ON]
    row[1], row[3], row[6], row[7] = size, _decode_s(state, group, group, NOBODY, NOBODY), count, slots
    if masks[first + MORE]:
        row, added = choices[first + MORE], idle_instance(state)
        row[1], row[3] = size, _decode_s(state, group, group, added, NOBODY)
        row[6], row[7] = count + 1, slots + free_tokens(state, added)
    if masks[first + LESS]:
        row, removed = choices[first + LESS], least_member(state, group)
        moved = state.group_kv[group, removed]
        row[1], row[2], row[3] = size, moved, _decode_s(state, group, group, NOBODY, removed)
        row[4] = migration_seconds(state.cost, 0, moved)  # where it stays within the node
        row[6], row[7] = count - 1, slots - free_tokens(state, removed) - moved
    if masks[first + MERGE]:
        row, other = choices[first + MERGE], partner(state, group)
        row[1], row[3] = size + state.size[other], _decode_s(state, group, other, NOBODY, NOBODY)
        row[4] = 0.0 if state.activity[other] == RESTS else state.end_s[other] - state.clock[0]
        row[6], row[7] = count + num_members(state, other), slots + room_of(state, other)
        row[8], row[9], row[10] = state.size[other], groups[other, _GROUP_OUT], groups[other, _GROUP_RATE]


@routine
def _decode_s(state: FleetState, group: int, other: int, added: int, removed: int) -> float:
    """About how long a decode of two groups (or one: `other = group`) takes with a member more or less."""
    cost = state.cost
    if cost.decode_s > 0:
        return cost.decode_s
    size = state.size[group] + (state.size[other] if other != group else 0)
    count, most, crosses, first_node, fullest = 0, 0, 0, NOBODY, NOBODY
    for instance in range(state.num_instances):
        there = state.member[group, instance] or state.member[other, instance] or instance == added
        if not there or instance == removed:
            continue
        count += 1
        most = max(most, _kv_of(state, group, other, instance))
        if fullest == NOBODY or state.used[instance] > state.used[fullest]:
            fullest = instance
        node = instance // state.instances_per_node
        if first_node == NOBODY:
            first_node = node
        elif node != first_node:
            crosses = 1
    if removed != NOBODY:  # its KV moves to the fullest first
        moved = min(state.group_kv[group, removed], free_tokens(state, fullest))
        most = max(most, _kv_of(state, group, other, fullest) + moved)
    largest = min(size, max(-(-size // count), MASTER_BATCH))
    seconds = master_seconds(cost, largest) + attention_seconds(cost, size, most)
    return seconds + (cost.exchange_s[crosses, size] if count > 1 else 0.0)


@kernel
def _kv_of(state: FleetState, group: int, other: int, instance: int) -> int:
    tokens: int = state.group_kv[group, instance]
    if other != group:
        tokens += state.group_kv[other, instance]
    return tokens
