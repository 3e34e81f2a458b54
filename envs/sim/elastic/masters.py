"""Who stores the next token of whom: the masters of a decode iteration, and how long it lasts."""

from servegym.costmodels.elastic.cost import attention_seconds, master_seconds
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.elastic.groups import crosses_nodes, free_tokens, settle
from servegym.envs.sim.elastic.state import FleetState


@kernel
def order_members(state: FleetState, group: int, fullest_first: bool) -> int:
    """Fills `state.order` with its members, fullest first or last, of equals in order; how many there are."""
    count = 0
    for instance in range(state.num_instances):
        if not state.member[group, instance]:
            continue
        used = state.used[instance]
        at = count
        while at > 0:
            other = state.used[state.order[at - 1]]
            if (other >= used) if fullest_first else (other <= used):
                break
            state.order[at] = state.order[at - 1]
            at -= 1
        state.order[at] = instance
        count += 1
    return count


@routine
def share_out(state: FleetState, group: int, master_batch: int, fullest_first: bool) -> int:
    """Fills `state.order` and `state.shares` with the masters of the next decode; how many, -1: no room."""
    count = order_members(state, group, fullest_first)
    left = state.size[group]
    for rank in range(count):
        free = free_tokens(state, state.order[rank])
        share = min(left, free, max(left // (count - rank), master_batch))
        state.shares[rank] = share
        left -= share
    for rank in range(count):
        more = min(left, free_tokens(state, state.order[rank]) - state.shares[rank])
        state.shares[rank] += more
        left -= more
    if left > 0:
        return -1
    masters = 0
    for rank in range(count):
        if state.shares[rank] > 0:
            state.order[masters] = state.order[rank]
            state.shares[masters] = state.shares[rank]
            masters += 1
    return masters


@routine
def appoint(state: FleetState, group: int, count: int) -> None:
    """The `count` masters of `share_out` serve one more iteration: its KV tokens take their place."""
    same = count == state.num_masters[group]
    for rank in range(count):
        if (
            state.masters[group, rank] != state.order[rank]
            or state.mini_batches[group, rank] != state.shares[rank]
        ):
            same = False
    if not same:
        settle(state, group)
        state.num_masters[group] = count
        for rank in range(count):
            state.masters[group, rank] = state.order[rank]
            state.mini_batches[group, rank] = state.shares[rank]
    for rank in range(count):
        state.used[state.order[rank]] += state.shares[rank]
        state.group_kv[group, state.order[rank]] += state.shares[rank]


@kernel
def decode_iteration_seconds(state: FleetState, group: int) -> float:
    """Of a group whose masters have been appointed."""
    cost = state.cost
    if cost.decode_s > 0:
        return cost.decode_s
    largest = 0
    for rank in range(state.num_masters[group]):
        largest = max(largest, state.mini_batches[group, rank])
    requests = state.size[group]
    attention_s = 0.0
    members = 0
    for instance in range(state.num_instances):
        if state.member[group, instance]:
            members += 1
            if state.group_kv[group, instance] > 0:
                seconds = attention_seconds(cost, requests, state.group_kv[group, instance])
                attention_s = max(attention_s, seconds)
    exchange_s = cost.exchange_s[crosses_nodes(state, group), requests] if members > 1 else 0.0
    return master_seconds(cost, largest) + attention_s + exchange_s
