"""What a router sees of the fleet: now, or as it was some time ago.

The instants that will be seen are known before they come (an arrival's is known when the arrival is, and who
waits at the router is routed when a replica recovers or starts), so only these are kept.
"""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import known_tokens
from servegym.envs.sim.llm.cluster.availability import is_available, standing
from servegym.envs.sim.llm.cluster.places import touch
from servegym.envs.sim.llm.cluster.plan import DECODE, ENCODE, MIXED, PREFILL
from servegym.envs.sim.llm.cluster.state import Cluster
from servegym.envs.sim.llm.cluster.unseen import write_settled, write_unseen
from servegym.envs.sim.llm.state import NOBODY
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    FIRST_WAITING_TOKENS,
    KV_RELEASED_PER_ITERATION,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    PREFIX_HIT_TOKENS,
    ROLE,
    SPEED,
    STANDING,
    write_hit_tokens,
    write_load_columns,
    write_replica_row,
    write_request_row,
)


@kernel
def may_go(cluster: Cluster, request_id: int, replica_id: int) -> bool:
    """Whether a replica is available for what a request needs next, and has room for it."""
    if not is_available(cluster, replica_id) or not cluster.fits[replica_id, request_id]:
        return False
    control = cluster.control[0]
    journey = cluster.journeys[request_id]
    role = cluster.members[replica_id].role
    if journey.has_images and not journey.encoded and control.has_encoders:
        return bool(role == ENCODE)
    if journey.holder != NOBODY:
        return bool(role == (DECODE if control.has_decoders else MIXED))
    return role in (MIXED, PREFILL)


@kernel
def can_be_routed(cluster: Cluster, request_id: int) -> bool:
    """Whether any replica may be chosen for a request."""
    found = False
    for replica_id in range(cluster.members.shape[0]):
        found = found or may_go(cluster, request_id, replica_id)
    return found


@routine
def write_rows(
    cluster: Cluster, request_id: int, looks: bool, rows: np.ndarray, request_row: np.ndarray
) -> None:
    """Fills rows (R, ROUTER_REPLICA_FEATURES) and, up to its identity, the row of the request being routed.

    Without `looks` only AVAILABLE is written of the replicas, and nobody is brought up to date.
    """
    control = cluster.control[0]
    journey = cluster.journeys[request_id]
    seen_s = max(control.now_s - cluster.state_delay_s, journey.caused_s)
    if looks:
        write_rows_of(cluster, seen_s, rows)
    for replica_id in range(rows.shape[0]):
        if looks:
            _write_hits(cluster, request_id, replica_id, rows[replica_id])
        rows[replica_id, AVAILABLE] = 1.0 if may_go(cluster, request_id, replica_id) else 0.0
    write_request_row(cluster.fleet, request_id, journey.gap_s, request_row)


@routine
def write_rows_of(cluster: Cluster, seen_s: float, rows: np.ndarray) -> None:
    """Fills rows (R, ROUTER_REPLICA_FEATURES) as they were at an instant that was looked at, or are now.

    SPEED, STANDING, ROLE and what was sent are always those of now.
    """
    if seen_s < cluster.control[0].now_s:
        place = _look_at(cluster, seen_s)
        for replica_id in range(rows.shape[0]):
            for column in range(rows.shape[1]):
                rows[replica_id, column] = cluster.looks[place, replica_id, column]
    else:
        _write_rows_now(cluster, rows)
    for replica_id in range(rows.shape[0]):
        member = cluster.members[replica_id]
        group = cluster.fleet.replicas[replica_id].group
        rows[replica_id, SPEED] = 1.0 if member.role == ENCODE else cluster.fleet.speed[group]
        rows[replica_id, STANDING] = standing(cluster, replica_id)
        rows[replica_id, ROLE] = member.role
        write_unseen(cluster, replica_id, rows[replica_id])


@routine
def _write_rows_now(cluster: Cluster, rows: np.ndarray) -> None:
    for replica_id in range(rows.shape[0]):
        touch(cluster, replica_id)
        write_replica_row(cluster.fleet, replica_id, cluster.control[0].now_s, rows[replica_id])
        write_load_columns(cluster.fleet, replica_id, rows[replica_id])
        write_settled(cluster, replica_id, rows[replica_id])
        member = cluster.members[replica_id]
        if member.role == ENCODE:
            rows[replica_id, KV_USED_BLOCKS] = 0.0
            rows[replica_id, KV_TOTAL_BLOCKS] = 0.0
            rows[replica_id, KV_RELEASED_PER_ITERATION] = 0.0
            if cluster.fleet.replicas[replica_id].num_waiting > 0:
                first = cluster.fleet.replicas[replica_id].waiting_first
                rows[replica_id, FIRST_WAITING_TOKENS] = known_tokens(cluster.fleet, first)


@routine
def _write_hits(cluster: Cluster, request_id: int, replica_id: int, row: np.ndarray) -> None:
    """Where a request goes on from a replica, this one holds all the full blocks there are of it."""
    fleet = cluster.fleet
    engine = fleet.engines[fleet.replicas[replica_id].group]
    if cluster.members[replica_id].role == ENCODE or not engine.prefix_caching:
        row[PREFIX_HIT_TOKENS] = 0.0
    elif cluster.journeys[request_id].holder == replica_id:
        size = engine.block_size
        row[PREFIX_HIT_TOKENS] = (known_tokens(fleet, request_id) - 1) // size * size
    else:
        touch(cluster, replica_id)
        write_hit_tokens(fleet, replica_id, request_id, row)


@kernel
def _look_at(cluster: Cluster, seen_s: float) -> int:
    """Position in the ring of the look at this instant: the last one not after it."""
    control = cluster.control[0]
    size = cluster.look_s.shape[0]
    first, end = 0, control.num_looks
    while end - first > 1:
        middle = (first + end) // 2
        if cluster.look_s[(control.first_look + middle) % size] <= seen_s:
            first = middle
        else:
            end = middle
    return (control.first_look + first) % size


@routine
def look(cluster: Cluster) -> bool:
    """Keeps the rows of this instant, forgets those that nobody will see; False where there is no room."""
    control = cluster.control[0]
    size = cluster.look_s.shape[0]
    while (
        control.num_looks > 0 and cluster.look_s[control.first_look] < control.now_s - cluster.state_delay_s
    ):
        control.first_look = (control.first_look + 1) % size
        control.num_looks -= 1
    if control.num_looks == size:
        return False
    place = (control.first_look + control.num_looks) % size
    cluster.look_s[place] = control.now_s
    _write_rows_now(cluster, cluster.looks[place])
    control.num_looks += 1
    return True
