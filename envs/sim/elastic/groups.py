"""What groups are made of: their requests, members and KV tokens, and what they know late.

While a group decodes with the same masters its requests are not touched: `steps` counts the iterations, and
`settle` hands tokens out to the requests.
"""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.elastic.accrual import charge_finish
from servegym.envs.sim.elastic.state import (
    FINISHED,
    FINISHED_TOKENS,
    NOBODY,
    NUM_FINISHED,
    RESTS,
    FleetState,
)


@kernel
def free_tokens(state: FleetState, instance: int) -> int:
    """KV tokens an instance has room for."""
    return state.kv_tokens - state.used[instance]


@kernel
def tokens_out(state: FleetState, request: int) -> int:
    """Its output tokens so far."""
    group = state.group_of[request]
    late = state.steps[group] if group != NOBODY else 0
    return state.produced[request] + late


@kernel
def prefill_tokens(state: FleetState, request: int) -> int:
    """Tokens of the prefill of a request that waits."""
    return state.prompt[request] + state.produced[request]


@kernel
def is_at_rest(state: FleetState, group: int) -> bool:
    """Whether it is a group that runs nothing."""
    return 0 <= group < state.size.size and state.size[group] > 0 and state.activity[group] == RESTS


@kernel
def members_run(state: FleetState, group: int) -> bool:
    """Whether a member of it runs, for it or for another group."""
    for instance in range(state.num_instances):
        if state.member[group, instance] and state.runs_for[instance] != NOBODY:
            return True
    return False


@kernel
def nobody_runs(state: FleetState) -> bool:
    """Whether all groups are at rest."""
    running = 0
    for instance in range(state.num_instances):
        running += state.runs_for[instance] != NOBODY
    return running == 0


@kernel
def crosses_nodes(state: FleetState, group: int) -> int:
    """1 where members stand in more than one node, else 0."""
    node = NOBODY
    for instance in range(state.num_instances):
        if state.member[group, instance]:
            own = instance // state.instances_per_node
            if node != NOBODY and own != node:
                return 1
            node = own
    return 0


@routine
def settle(state: FleetState, group: int) -> None:
    """Hands out the tokens of the iterations since it was done last."""
    steps = state.steps[group]
    if steps == 0:
        return
    at = 0
    for rank in range(state.num_masters[group]):
        master = state.masters[group, rank]
        for _ in range(state.mini_batches[group, rank]):
            request = state.requests[group, at]
            state.produced[request] += steps
            state.kv[request, master] += steps
            at += 1
    state.steps_to_finish[group] -= steps
    state.steps[group] = 0


@routine
def count_steps_to_finish(state: FleetState, group: int) -> None:
    """After its requests have changed, settled."""
    least = 2**62
    for at in range(state.size[group]):
        request = state.requests[group, at]
        least = min(least, state.output[request] - state.produced[request])
    state.steps_to_finish[group] = least


@routine
def end_finished(state: FleetState, group: int, now_s: float) -> None:
    """Requests of a settled group that have all their output leave it; others keep their order."""
    kept = 0
    for at in range(state.size[group]):
        request = state.requests[group, at]
        if state.produced[request] < state.output[request]:
            state.requests[group, kept] = request
            kept += 1
            continue
        state.fate[request] = FINISHED
        state.finish_s[request] = now_s
        charge_finish(state, request)
        state.group_of[request] = NOBODY
        state.counters[NUM_FINISHED] += 1
        state.counters[FINISHED_TOKENS] += state.output[request]
        drop_kv(state, group, request)
    state.size[group] = kept
    count_steps_to_finish(state, group)


@kernel
def drop_kv(state: FleetState, group: int, request: int) -> None:
    """Frees what a request of a group holds."""
    for instance in range(state.num_instances):
        tokens = state.kv[request, instance]
        state.used[instance] -= tokens
        state.group_kv[group, instance] -= tokens
        state.kv[request, instance] = 0


@kernel
def release_members(state: FleetState, group: int) -> None:
    """Members without KV of the group cease to be members."""
    for instance in range(state.num_instances):
        if state.group_kv[group, instance] == 0:
            state.member[group, instance] = 0
