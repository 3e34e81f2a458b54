"""Replicas that fail and recover, and a fleet that grows and shrinks by a plan."""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.asking import forget_replica, forget_request
from servegym.envs.sim.llm.cluster.endings import conclude
from servegym.envs.sim.llm.cluster.events import schedule
from servegym.envs.sim.llm.cluster.migration import abort_migrations, is_awaited
from servegym.envs.sim.llm.cluster.places import come_to_router, has_ended, take_out, touch
from servegym.envs.sim.llm.cluster.plan import ENCODE
from servegym.envs.sim.llm.cluster.state import (
    ACTIVE,
    CANCELLED,
    DISPATCH,
    LEAVING,
    LINK,
    LOST,
    OFF,
    ON_REPLICA,
    STARTED,
    STARTING,
    Cluster,
)
from servegym.envs.sim.llm.log import void_iteration
from servegym.envs.sim.llm.prefix_state import clear_cache
from servegym.envs.sim.llm.search_tree import arrived_before
from servegym.envs.sim.llm.state import FIRST_TOKEN_RATIO, NOBODY, WAITING


@kernel
def is_available(cluster: Cluster, replica_id: int) -> bool:
    """Whether a replica takes requests."""
    member = cluster.members[replica_id]
    return bool(member.plan == ACTIVE and not member.failed)


@routine
def fail(cluster: Cluster, replica_id: int) -> None:
    """Everything on the replica, on its way to it or from it goes back to the router, or is lost."""
    touch(cluster, replica_id)
    cluster.members[replica_id].failed = 1
    abort_migrations(cluster, replica_id)
    count = _list_concerned(cluster, replica_id)
    for i in range(count):
        request_id = cluster.scratch[i]
        journey = cluster.journeys[request_id]
        if journey.place == ON_REPLICA and journey.replica == replica_id:
            if cluster.fleet.cache.requests.size > 0:
                cluster.fleet.cache.requests[request_id].num_held = 0
            request = cluster.fleet.requests[request_id]
            cluster.fleet.replicas[replica_id].latency_offset_s += request.arrival_s
            if np.isnan(request.first_token_s):
                cluster.fleet.replicas[replica_id].ttft_offset_s += request.arrival_s
            journey.sends += 1
        else:
            take_out(cluster, request_id)
        if journey.cancelling:
            journey.cancelling = 0
            conclude(cluster, request_id, CANCELLED)
        elif cluster.lose_on_failure:
            conclude(cluster, request_id, LOST)
        else:
            _start_anew(cluster, request_id)
    empty(cluster, replica_id)
    cluster.members[replica_id].link_free_s = cluster.control[0].now_s


@routine
def _list_concerned(cluster: Cluster, replica_id: int) -> int:
    """Fills `scratch` with those whom a replica's failure concerns, by arrival; returns their number."""
    count = 0
    for request_id in range(cluster.journeys.shape[0]):
        if not _is_concerned(cluster, replica_id, request_id):
            continue
        place = count
        while place > 0 and arrived_before(cluster.fleet, request_id, cluster.scratch[place - 1]):
            cluster.scratch[place] = cluster.scratch[place - 1]
            place -= 1
        cluster.scratch[place] = request_id
        count += 1
    return count


@kernel
def _is_concerned(cluster: Cluster, replica_id: int, request_id: int) -> bool:
    journey = cluster.journeys[request_id]
    if journey.holder == replica_id:
        return True
    if journey.replica != replica_id or has_ended(cluster, request_id):
        return False
    return bool(journey.place == ON_REPLICA or journey.place == DISPATCH or journey.place == LINK)


@routine
def _start_anew(cluster: Cluster, request_id: int) -> None:
    """Nothing is left of a request but its arrival."""
    request = cluster.fleet.requests[request_id]
    journey = cluster.journeys[request_id]
    request.generated = 0
    request.computed = 0
    request.chunk = 0
    request.admission_hit_tokens = 0
    request.first_token_s = np.nan
    request.state = WAITING
    request.image_s = 0.0 if cluster.control[0].has_encoders else journey.image_s
    forget_request(cluster.fleet, request_id)
    journey.encoded = 0
    journey.retries += 1
    journey.caused_s = cluster.control[0].now_s
    come_to_router(cluster, request_id)


@routine
def empty(cluster: Cluster, replica_id: int) -> None:
    """Makes a replica as new; what it has counted so far stays, and nobody is there any more."""
    fleet = cluster.fleet
    replica = fleet.replicas[replica_id]
    member = cluster.members[replica_id]
    member.serving = NOBODY
    member.leaving_first = NOBODY
    member.stale = 1
    if replica.in_flight and member.role != ENCODE:
        void_iteration(fleet.log, replica_id)
    replica.clock_s = cluster.control[0].now_s
    replica.in_flight = 0
    replica.iteration = 0
    replica.num_running = 0
    replica.num_waiting = 0
    replica.waiting_root = NOBODY
    replica.num_decodes = 0
    replica.decodes_run = 0
    replica.num_held = 0
    replica.held_context = 0
    replica.num_prefilling = 0
    replica.context_offset = 0
    replica.waiting_tokens = 0
    replica.prefill_left_tokens = 0
    replica.prefill_blocks = 0
    replica.kept_blocks = 0
    replica.reserved_seats = 0
    replica.anchor_blocks = 0
    replica.prompt_tokens = 0
    replica.generated_tokens = 0
    replica.predicted_tokens = 0
    replica.num_before_first_token = 0
    replica.num_unfinished = 0
    replica.num_urgent = 0
    replica.num_swapped = 0
    replica.swap_used_blocks = 0
    replica.num_paused = 0
    replica.paused_context = 0
    replica.last_iteration_s = 0.0
    replica.since_attempt = 0
    replica.token_ratio = FIRST_TOKEN_RATIO
    replica.ratio_set_at = 0
    replica.running_first = NOBODY
    replica.running_last = NOBODY
    replica.waiting_first = NOBODY
    replica.waiting_last = NOBODY
    replica.prefilling_first = NOBODY
    replica.prefilling_last = NOBODY
    replica.swapped_first = NOBODY
    for rest in range(fleet.rests_above.shape[1]):
        fleet.rests_above[replica_id, rest] = 0
    forget_replica(fleet, replica_id)
    if fleet.engines[replica.group].prefix_caching:
        clear_cache(fleet.cache, replica_id)


@routine
def scale(cluster: Cluster, wanted: int) -> None:
    """So many replicas are to be active, or about to be."""
    members = cluster.members
    planned = 0
    for replica_id in range(members.shape[0]):
        if members[replica_id].plan not in (LEAVING, OFF):
            planned += 1
            if planned > wanted:
                stop(cluster, replica_id)
    for replica_id in range(members.shape[0]):
        if planned < wanted and members[replica_id].plan in (LEAVING, OFF):
            planned += 1
            start(cluster, replica_id)


@routine
def start(cluster: Cluster, replica_id: int) -> None:
    """An inactive replica starts, and one that drains goes on; others do nothing."""
    member = cluster.members[replica_id]
    now = standing(cluster, replica_id)
    if now == LEAVING:
        member.plan = ACTIVE
    elif now == OFF:
        member.plan = STARTING
        member.starts += 1
        started_s = cluster.control[0].now_s + cluster.startup_s
        schedule(cluster, started_s, STARTED, replica_id, member.starts)


@routine
def stop(cluster: Cluster, replica_id: int) -> None:
    """A replica takes no more requests; one that changes its role goes on doing so."""
    if cluster.members[replica_id].plan in (ACTIVE, STARTING):
        cluster.members[replica_id].plan = LEAVING


@routine
def standing(cluster: Cluster, replica_id: int) -> int:
    """Where a replica stands: not LEAVING but OFF where it has no more work."""
    member = cluster.members[replica_id]
    if member.plan == LEAVING and is_empty(cluster, replica_id):
        member.plan = OFF
    plan: int = member.plan
    return plan


@routine
def started(cluster: Cluster, replica_id: int, start: int) -> None:
    """A replica has started, unless it was sent away meanwhile."""
    member = cluster.members[replica_id]
    if member.plan == STARTING and member.starts == start:
        empty(cluster, replica_id)
        member.plan = ACTIVE


@routine
def is_empty(cluster: Cluster, replica_id: int) -> bool:
    """Nobody is on the replica, on the way to it or from it."""
    touch(cluster, replica_id)
    replica = cluster.fleet.replicas[replica_id]
    if replica.num_unfinished + replica.num_waiting + replica.in_flight > 0:
        return False
    for request_id in range(cluster.journeys.shape[0]):
        if _is_concerned(cluster, replica_id, request_id):
            return False
    return not is_awaited(cluster, replica_id)
