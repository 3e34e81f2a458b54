"""When a rebalancer is asked, what it sees, and which requests go where it says."""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import is_urgent
from servegym.envs.sim.llm.cluster.availability import is_available, start, stop
from servegym.envs.sim.llm.cluster.events import schedule
from servegym.envs.sim.llm.cluster.looks import can_be_routed, write_rows_of
from servegym.envs.sim.llm.cluster.migration import decoded_tokens, is_migrating, start_migration
from servegym.envs.sim.llm.cluster.places import touch
from servegym.envs.sim.llm.cluster.plan import DECODE, ENCODE, MIXED
from servegym.envs.sim.llm.cluster.roles import begin_changes, switch_role
from servegym.envs.sim.llm.cluster.state import LOOK, LOOK_TO_REBALANCE, REBALANCE, Cluster
from servegym.envs.sim.llm.rebalancer import BE_MIXED, KEEP, START, STOP
from servegym.envs.sim.llm.state import DECODING, NOBODY
from servegym.envs.sim.llm.view import AVAILABLE, PREFIX_HIT_TOKENS


@routine
def schedule_rebalancing(cluster: Cluster) -> None:
    """The rebalancer is to be asked once more."""
    turn = cluster.control[0].rebalancings + 1
    cluster.control[0].rebalances = 1
    schedule(cluster, turn * cluster.rebalance_s, REBALANCE, turn, 0)


@routine
def schedule_look_to_rebalance(cluster: Cluster, turn: int) -> None:
    """What will be seen at the rebalancer's `turn`, and when replicas are ready that start or switch then."""
    turn_s = turn * cluster.rebalance_s
    schedule(cluster, turn_s - cluster.state_delay_s, LOOK_TO_REBALANCE, turn, 0)
    if cluster.startup_s > 0.0:
        schedule(cluster, turn_s + cluster.startup_s - cluster.state_delay_s, LOOK, 0, 0)
    if cluster.role_switch_s > 0.0:
        schedule(cluster, turn_s + cluster.role_switch_s - cluster.state_delay_s, LOOK, 0, 0)


@routine
def write_rows_to_rebalance(cluster: Cluster, rows: np.ndarray) -> None:
    """Fills rows (R, ROUTER_REPLICA_FEATURES), live or stale, for the rebalancer."""
    write_rows_of(cluster, cluster.control[0].now_s - cluster.state_delay_s, rows)
    for replica_id in range(rows.shape[0]):
        rows[replica_id, AVAILABLE] = 1.0 if _may_migrate_to(cluster, replica_id) else 0.0
        rows[replica_id, PREFIX_HIT_TOKENS] = 0.0


@kernel
def _may_migrate_to(cluster: Cluster, replica_id: int) -> bool:
    role = cluster.members[replica_id].role
    return is_available(cluster, replica_id) and role in (MIXED, DECODE)


@routine
def rebalance(cluster: Cluster, moves: np.ndarray, count: int, orders: np.ndarray) -> bool:
    """Carries out orders (R,), then the first `count` moves (source, target).

    False, and nothing is done, where an order is unknown or a move is of no replica.
    """
    replicas = cluster.members.shape[0]
    control = cluster.control[0]
    control.num_moves = count
    if count < 0 or count > moves.shape[0]:
        return False
    for i in range(count):
        if min(moves[i, 0], moves[i, 1]) < 0 or max(moves[i, 0], moves[i, 1]) >= replicas:
            return False
    for replica_id in range(replicas):
        if orders[replica_id] < KEEP or orders[replica_id] > BE_MIXED + ENCODE:
            return False
    for replica_id in range(replicas):
        if orders[replica_id] == START:
            start(cluster, replica_id)
        elif orders[replica_id] == STOP:
            stop(cluster, replica_id)
        elif orders[replica_id] >= BE_MIXED:
            switch_role(cluster, replica_id, orders[replica_id] - BE_MIXED)
    begin_changes(cluster)
    for i in range(count):
        _move_one(cluster, moves[i, 0], moves[i, 1])
    control.rebalancings += 1
    control.rebalances = 0
    if _has_work(cluster):
        schedule_rebalancing(cluster)
    return True


@routine
def _move_one(cluster: Cluster, source_id: int, target_id: int) -> None:
    """The request that is to leave a replica starts to migrate, if it can."""
    if source_id == target_id or cluster.members[source_id].role == ENCODE:
        return
    if not _may_migrate_to(cluster, target_id):
        return
    touch(cluster, source_id)
    touch(cluster, target_id)
    target = cluster.fleet.replicas[target_id]
    seats = cluster.fleet.engines[target.group].max_num_seqs
    request_id = _next_to_leave(cluster, source_id)
    if request_id == NOBODY or not cluster.fits[target_id, request_id]:
        return
    if target.num_running + target.reserved_seats < seats:
        start_migration(cluster, request_id, target_id)


@routine
def _next_to_leave(cluster: Cluster, replica_id: int) -> int:
    """The least urgent decode not migrating yet; of equals the one with the fewest tokens, the first.

    Urgent ones only leave a replica that is not available.
    """
    fleet = cluster.fleet
    urgent_may = not is_available(cluster, replica_id)
    best, fewest = NOBODY, 0
    request_id = fleet.replicas[replica_id].running_first
    while request_id != NOBODY:
        request = fleet.requests[request_id]
        may = urgent_may or not is_urgent(fleet, request_id)
        if may and request.state == DECODING and not is_migrating(cluster, request_id):
            tokens = decoded_tokens(fleet, replica_id, request_id)
            priority = fleet.requests[best].priority if best != NOBODY else request.priority
            better = request.priority > priority or (request.priority == priority and tokens < fewest)
            if best == NOBODY or better:
                best, fewest = request_id, tokens
        request_id = request.next
    return best


@routine
def _has_work(cluster: Cluster) -> bool:
    """A replica serves somebody (and does not wait for something to happen), or something will happen.

    Or somebody at the router is about to leave it.
    """
    control = cluster.control[0]
    if control.next_open < cluster.open_loop.shape[0] or control.arriving_first != NOBODY:
        return True
    request_id = control.router_first
    while request_id != NOBODY:
        if can_be_routed(cluster, request_id):
            return True
        request_id = cluster.fleet.requests[request_id].next
    for i in range(control.heap_size):
        if cluster.events[i].kind not in (LOOK, LOOK_TO_REBALANCE):
            return True
    for replica_id in range(cluster.members.shape[0]):
        touch(cluster, replica_id)
        replica = cluster.fleet.replicas[replica_id]
        if cluster.members[replica_id].role == ENCODE:
            if replica.in_flight or replica.num_waiting > 0:
                return True
        elif replica.num_unfinished > 0 and (replica.in_flight or replica.clock_s < np.inf):
            return True
    return False
