"""Where requests are: the router's queue, replicas and their queues, KV blocks kept after leaving."""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.asking import forget_request
from servegym.envs.sim.llm.batch import cache_blocks, evict, is_urgent
from servegym.envs.sim.llm.cluster.plan import ENCODE
from servegym.envs.sim.llm.cluster.state import LINK, ON_REPLICA, ROUTER, Cluster
from servegym.envs.sim.llm.cluster.unseen import settle
from servegym.envs.sim.llm.engine import FCFS
from servegym.envs.sim.llm.fleet import advance, submit_at, withdraw
from servegym.envs.sim.llm.queues import append_waiting, insert_in_order, remove_waiting
from servegym.envs.sim.llm.state import (
    BROUGHT,
    ENDED,
    NOBODY,
    WAITING,
    Fleet,
)


@kernel
def touch(cluster: Cluster, replica_id: int) -> None:
    """Brings a replica up to date, before anybody looks at it or changes it."""
    member = cluster.members[replica_id]
    member.stale = 1
    if member.role != ENCODE:
        advance(cluster.fleet, replica_id, cluster.control[0].now_s)


@kernel
def wake(cluster: Cluster, replica_id: int) -> None:
    """A replica, up to date, that is not in an iteration may start one now."""
    replica = cluster.fleet.replicas[replica_id]
    waits = replica.clock_s < cluster.control[0].now_s or replica.clock_s == np.inf
    if not replica.in_flight and waits:
        replica.clock_s = cluster.control[0].now_s


@kernel
def has_ended(cluster: Cluster, request_id: int) -> bool:
    """Whether a request is finished, cancelled or lost, as of when its replica was brought up to date."""
    journey = cluster.journeys[request_id]
    if journey.place == ON_REPLICA:
        return bool(cluster.fleet.requests[request_id].state == ENDED)
    return bool(journey.place > LINK)


@routine
def come_to_router(cluster: Cluster, request_id: int) -> None:
    """A request joins the end of the router's queue."""
    control = cluster.control[0]
    requests = cluster.fleet.requests
    cluster.journeys[request_id].place = ROUTER
    requests[request_id].next = NOBODY
    if control.router_first == NOBODY:
        control.router_first = request_id
    else:
        requests[control.router_last].next = request_id
    control.router_last = request_id


@routine
def leave_router(cluster: Cluster, request_id: int) -> None:
    """A request leaves the router's queue."""
    control = cluster.control[0]
    requests = cluster.fleet.requests
    before = NOBODY
    other = control.router_first
    while other != request_id:
        before = other
        other = requests[other].next
    following = requests[request_id].next
    if before == NOBODY:
        control.router_first = following
    else:
        requests[before].next = following
    if control.router_last == request_id:
        control.router_last = before


@routine
def enqueue(cluster: Cluster, replica_id: int, request_id: int) -> None:
    """A request enters the waiting queue of a replica, where it was sent."""
    fleet = cluster.fleet
    request = fleet.requests[request_id]
    cluster.journeys[request_id].place = ON_REPLICA
    settle(cluster, request_id)
    touch(cluster, replica_id)
    wake(cluster, replica_id)
    if cluster.members[replica_id].role == ENCODE:
        append_waiting(fleet, replica_id, request_id)
        fleet.replicas[replica_id].prompt_tokens += request.prompt_tokens
        fleet.replicas[replica_id].num_urgent += is_urgent(fleet, request_id)
    else:
        request.state = WAITING
        submit_at(fleet, replica_id, request_id, cluster.control[0].now_s)


@routine
def enqueue_brought(cluster: Cluster, replica_id: int, request_id: int) -> None:
    """The same for a request with the KV of all its known tokens but the last."""
    fleet = cluster.fleet
    cluster.journeys[request_id].place = ON_REPLICA
    touch(cluster, replica_id)
    wake(cluster, replica_id)
    forget_request(fleet, request_id)
    fleet.requests[request_id].state = BROUGHT
    if fleet.engines[fleet.replicas[replica_id].group].order == FCFS:
        append_waiting(fleet, replica_id, request_id)
    else:
        insert_in_order(fleet, replica_id, request_id, cluster.control[0].now_s)
    count_in(fleet, replica_id, request_id)


@kernel
def count_in(fleet: Fleet, replica_id: int, request_id: int) -> None:
    """A request that has sampled its first token elsewhere counts here from now on."""
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    request.replica = replica_id
    replica.prompt_tokens += request.prompt_tokens
    replica.generated_tokens += request.generated
    replica.predicted_tokens += request.predicted_tokens
    replica.num_unfinished += 1
    replica.num_urgent += is_urgent(fleet, request_id)
    replica.latency_offset_s -= request.arrival_s


@routine
def release_kept(cluster: Cluster, request_id: int) -> None:
    """The blocks are free that a request holds at a replica it has left."""
    fleet = cluster.fleet
    request = fleet.requests[request_id]
    replica_id = cluster.journeys[request_id].holder
    cluster.journeys[request_id].holder = NOBODY
    touch(cluster, replica_id)
    wake(cluster, replica_id)
    replica = fleet.replicas[replica_id]
    if fleet.engines[replica.group].prefix_caching:
        evict(fleet, replica_id, replica.in_flight * replica.decodes_run)
    replica.prefill_blocks -= request.blocks
    replica.kept_blocks -= request.blocks
    if fleet.engines[replica.group].prefix_caching:
        cache_blocks(fleet, replica_id, request_id, request.computed, False)


@routine
def take_out(cluster: Cluster, request_id: int) -> None:
    """A request, still there, leaves wherever it is; a replica it runs on must be between iterations."""
    journey = cluster.journeys[request_id]
    if journey.place == ROUTER:
        leave_router(cluster, request_id)
    elif journey.place == ON_REPLICA:
        replica_id = journey.replica
        touch(cluster, replica_id)
        wake(cluster, replica_id)
        if cluster.members[replica_id].role == ENCODE:
            _leave_encoder(cluster, replica_id, request_id)
        else:
            withdraw(cluster.fleet, replica_id, request_id)
    settle(cluster, request_id)
    if journey.holder != NOBODY:
        release_kept(cluster, request_id)
    journey.sends += 1


@routine
def _leave_encoder(cluster: Cluster, replica_id: int, request_id: int) -> None:
    fleet = cluster.fleet
    fleet.replicas[replica_id].prompt_tokens -= fleet.requests[request_id].prompt_tokens
    fleet.replicas[replica_id].num_urgent -= is_urgent(fleet, request_id)
    remove_waiting(fleet, replica_id, request_id)
