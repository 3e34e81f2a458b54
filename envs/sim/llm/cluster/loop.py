"""One loop over instants, each in the four steps of docs/simulator.md, "Order of events at one instant".

Replicas are advanced lazily. The loop stops only where something happens that concerns the fleet: an event,
an arrival, or news of a replica (`Cluster.next_s`).
"""

import math

import numpy as np

from servegym.costmodels.native.calls import call_at
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.cluster.availability import fail, scale, started
from servegym.envs.sim.llm.cluster.encoder import end_encoding, start_encoding
from servegym.envs.sim.llm.cluster.endings import cancel, end, let_leave, start_follow_ups
from servegym.envs.sim.llm.cluster.events import drop_first, schedule
from servegym.envs.sim.llm.cluster.links import receive, send_blocks
from servegym.envs.sim.llm.cluster.looks import can_be_routed, look
from servegym.envs.sim.llm.cluster.migration import end_last_stage, end_stage, let_stop
from servegym.envs.sim.llm.cluster.places import come_to_router, enqueue, touch
from servegym.envs.sim.llm.cluster.plan import ENCODE
from servegym.envs.sim.llm.cluster.rebalancing import schedule_look_to_rebalance
from servegym.envs.sim.llm.cluster.roles import take_role
from servegym.envs.sim.llm.cluster.state import (
    ARRIVE,
    BETWEEN,
    CANCEL,
    DISPATCH,
    FAIL,
    HAPPENING,
    KV_ARRIVED,
    LAST_STAGE_SENT,
    LINK,
    LOOK,
    LOOK_TO_REBALANCE,
    LOST,
    REACH,
    REBALANCE,
    RECOVER,
    ROUTING,
    SCALE,
    STAGE_SENT,
    STARTED,
    STARTING_ITERATIONS,
    SWITCHED,
    Cluster,
)
from servegym.envs.sim.llm.cluster.unseen import set_out
from servegym.envs.sim.llm.fleet import advance
from servegym.envs.sim.llm.state import ENDED, NOBODY

DONE, DECISION, REBALANCING, NO_ROOM = range(4)
"""Why the loop has stopped.

All is served; a request is to be routed; the rebalancer is to be asked; the heap or the ring must grow.
"""

EVENTS_PER_REQUEST = 4
"""More than one request can schedule in an instant."""


@routine
def run_until_decision(cluster: Cluster) -> int:
    """Serves until a request, `control.cursor`, is to be routed (`write_rows`, `route`), or to the end.

    Or until requests may migrate (`write_rows_to_rebalance`, `rebalance`).
    """
    control = cluster.control[0]
    while True:
        if control.step == BETWEEN:
            if (
                cluster.events.shape[0] - control.heap_size
                < EVENTS_PER_REQUEST * cluster.journeys.shape[0] + 64
            ):
                return NO_ROOM
            next_s = _next_instant(cluster)
            if next_s == np.inf:
                if not _give_up(cluster):
                    return DONE
                _find_next_changes(cluster)
                continue
            if next_s > control.now_s:
                control.now_s = next_s
                control.look_due = 0
            else:  # scheduled for the instant it was scheduled in: after the iterations that start then
                _start_iterations(cluster)
            _complete_iterations(cluster)
            control.step = HAPPENING
        if control.step == HAPPENING:
            if _let_happen(cluster):
                return REBALANCING
            _let_arrive(cluster)
            control.before_cursor = NOBODY
            control.cursor = control.router_first
            control.step = ROUTING
        if control.step == ROUTING:
            if _find_one_to_route(cluster):
                return DECISION
            control.step = STARTING_ITERATIONS
        if control.look_due and not look(cluster):
            return NO_ROOM
        _find_next_changes(cluster)
        control.step = BETWEEN


@routine
def route(cluster: Cluster, replica_id: int) -> None:
    """Sends the request being routed to a replica that it may go to; the loop goes on with the next."""
    control = cluster.control[0]
    request_id = control.cursor
    _pass_by(cluster, True)
    journey = cluster.journeys[request_id]
    journey.sends += 1
    journey.replica = replica_id
    set_out(cluster, request_id)
    if journey.holder != NOBODY:
        journey.place = LINK
        arrival_s = send_blocks(cluster, journey.holder, cluster.fleet.requests[request_id].blocks)
        schedule(cluster, arrival_s, KV_ARRIVED, request_id, journey.sends)
    elif cluster.dispatch_latency_s > 0.0:
        journey.place = DISPATCH
        schedule(cluster, control.now_s + cluster.dispatch_latency_s, REACH, request_id, journey.sends)
    else:
        enqueue(cluster, replica_id, request_id)


@routine
def _pass_by(cluster: Cluster, leaves: bool) -> None:
    """The cursor moves on to the next request; the one it passes leaves the router, or stays."""
    control = cluster.control[0]
    requests = cluster.fleet.requests
    request_id = control.cursor
    control.cursor = requests[request_id].next
    if not leaves:
        control.before_cursor = request_id
        return
    if control.before_cursor == NOBODY:
        control.router_first = control.cursor
    else:
        requests[control.before_cursor].next = control.cursor
    if control.router_last == request_id:
        control.router_last = control.before_cursor


@kernel
def _find_one_to_route(cluster: Cluster) -> bool:
    control = cluster.control[0]
    while control.cursor != NOBODY:
        if can_be_routed(cluster, control.cursor):
            return True
        if cluster.journeys[control.cursor].caused_s == control.now_s and cluster.state_delay_s > 0.0:
            control.look_due = 1  # whenever it is routed, it sees this instant or a later one
        _pass_by(cluster, False)
    return False


@routine
def _start_iterations(cluster: Cluster) -> None:
    now_s = cluster.control[0].now_s
    for replica_id in range(cluster.members.shape[0]):
        cluster.members[replica_id].stale = 1
        if cluster.members[replica_id].role != ENCODE:
            advance(cluster.fleet, replica_id, math.nextafter(now_s, np.inf))


@routine
def _next_instant(cluster: Cluster) -> float:
    control = cluster.control[0]
    next_s = np.inf
    for replica_id in range(cluster.next_s.shape[0]):
        next_s = min(next_s, cluster.next_s[replica_id])
    if control.heap_size > 0:
        next_s = min(next_s, cluster.events[0].time_s)
    requests = cluster.fleet.requests
    if control.next_open < cluster.open_loop.shape[0]:
        next_s = min(next_s, requests[cluster.open_loop[control.next_open]].arrival_s)
    if cluster.state_delay_s > 0.0 and control.next_look < cluster.open_loop.shape[0]:
        look_s = requests[cluster.open_loop[control.next_look]].arrival_s - cluster.state_delay_s
        next_s = min(next_s, look_s)
    return next_s


@routine
def _complete_iterations(cluster: Cluster) -> None:
    """Step 1: news of replicas, by number; then migrating requests stop."""
    now_s = cluster.control[0].now_s
    for replica_id in range(cluster.next_s.shape[0]):
        if cluster.next_s[replica_id] > now_s:
            continue
        if cluster.members[replica_id].role == ENCODE:
            end_encoding(cluster, replica_id)
        else:
            touch(cluster, replica_id)
            _spread_news(cluster, replica_id)
        if not cluster.fleet.replicas[replica_id].in_flight:
            let_leave(cluster, replica_id)
    for replica_id in range(cluster.next_s.shape[0]):
        stopping = cluster.members[replica_id].stopping_first != NOBODY
        if stopping and not cluster.fleet.replicas[replica_id].in_flight:
            let_stop(cluster, replica_id)


@routine
def _spread_news(cluster: Cluster, replica_id: int) -> None:
    """Requests that have left a replica: their follow-ups come, or they go on to decode elsewhere."""
    replica = cluster.fleet.replicas[replica_id]
    request_id = replica.announced_first
    replica.announced_first = NOBODY
    while request_id != NOBODY:
        request = cluster.fleet.requests[request_id]
        following = request.next
        if request.state == ENDED:
            start_follow_ups(cluster, request_id)
        else:
            cluster.journeys[request_id].holder = replica_id
            cluster.journeys[request_id].caused_s = cluster.control[0].now_s
            come_to_router(cluster, request_id)
        request_id = following


@routine
def _let_happen(cluster: Cluster) -> bool:
    """Step 2: fleet events, in the order in which they were scheduled; True where the rebalancer is asked."""
    control = cluster.control[0]
    while control.heap_size > 0 and cluster.events[0].time_s <= control.now_s:
        event = cluster.events[0]
        kind, subject, serial = event.kind, event.subject, event.serial
        drop_first(cluster)
        if kind == REBALANCE:
            return True
        _happen(cluster, kind, subject, serial)
    if cluster.state_delay_s > 0.0:
        requests = cluster.fleet.requests
        while control.next_look < cluster.open_loop.shape[0]:
            arrival_s = requests[cluster.open_loop[control.next_look]].arrival_s
            if arrival_s - cluster.state_delay_s > control.now_s:
                break
            control.next_look += 1
            control.look_due = 1
    return False


@routine
def _happen(cluster: Cluster, kind: int, subject: int, serial: int) -> None:
    if kind == ARRIVE:
        _line_up(cluster, subject)
    elif kind == LOOK:
        cluster.control[0].look_due = 1
    elif kind == LOOK_TO_REBALANCE:
        cluster.control[0].look_due = 1
        if cluster.control[0].rebalances:
            schedule_look_to_rebalance(cluster, subject + 1)
    elif kind == STAGE_SENT:
        end_stage(cluster, subject, serial)
    elif kind == LAST_STAGE_SENT:
        end_last_stage(cluster, subject, serial)
    elif kind == CANCEL:
        cancel(cluster, subject)
    elif kind == REACH:
        if cluster.journeys[subject].sends == serial:
            enqueue(cluster, cluster.journeys[subject].replica, subject)
    elif kind == KV_ARRIVED:
        if cluster.journeys[subject].sends == serial:
            receive(cluster, subject)
    elif kind == FAIL:
        fail(cluster, subject)
    elif kind == RECOVER:
        cluster.members[subject].failed = 0
    elif kind == SCALE:
        scale(cluster, subject)
    elif kind == STARTED:
        started(cluster, subject, serial)
    elif kind == SWITCHED:
        take_role(cluster, subject)


@routine
def _line_up(cluster: Cluster, request_id: int) -> None:
    """A follow-up arrives at this instant, in its place among the others that do."""
    control = cluster.control[0]
    requests = cluster.fleet.requests
    before, other = NOBODY, control.arriving_first
    while other != NOBODY and other < request_id:
        before, other = other, requests[other].next
    requests[request_id].next = other
    if before == NOBODY:
        control.arriving_first = request_id
    else:
        requests[before].next = request_id


@routine
def _let_arrive(cluster: Cluster) -> None:
    """Arrivals at this instant come to the router, by number."""
    control = cluster.control[0]
    requests = cluster.fleet.requests
    while True:
        request_id = control.arriving_first
        if control.next_open < cluster.open_loop.shape[0]:
            other = cluster.open_loop[control.next_open]
            if requests[other].arrival_s <= control.now_s and (request_id == NOBODY or other < request_id):
                control.next_open += 1
                _arrive(cluster, other)
                continue
        if request_id == NOBODY:
            return
        control.arriving_first = requests[request_id].next
        _arrive(cluster, request_id)


@routine
def _arrive(cluster: Cluster, request_id: int) -> None:
    control = cluster.control[0]
    journey = cluster.journeys[request_id]
    journey.gap_s = 0.0 if np.isnan(control.last_arrival_s) else control.now_s - control.last_arrival_s
    control.last_arrival_s = control.now_s
    come_to_router(cluster, request_id)
    schedule(cluster, control.now_s + journey.cancel_after_s, CANCEL, request_id, 0)


@routine
def _find_next_changes(cluster: Cluster) -> None:
    """Step 4: when the replicas that were looked at or changed will have news."""
    fleet = cluster.fleet
    for replica_id in range(cluster.members.shape[0]):
        member = cluster.members[replica_id]
        if not member.stale:
            continue
        member.stale = 0
        replica = fleet.replicas[replica_id]
        if member.role == ENCODE:
            start_encoding(cluster, replica_id)
            cluster.next_s[replica_id] = replica.clock_s if replica.in_flight else np.inf
        elif replica.announced_first != NOBODY:
            cluster.next_s[replica_id] = cluster.control[0].now_s  # rounding: it had news before its time
        elif replica.announces or member.leaving_first != NOBODY or member.stopping_first != NOBODY:
            call_at(cluster.next_change, (fleet, replica_id, cluster.next_s))
        else:
            cluster.next_s[replica_id] = np.inf


@routine
def _give_up(cluster: Cluster) -> bool:
    """Nothing will happen any more: what runs finishes, and who is at the router is lost; False: nobody was.

    The KV that those lost have held may be what others on their replicas wait for.
    """
    for replica_id in range(cluster.members.shape[0]):
        if cluster.members[replica_id].role != ENCODE:
            advance(cluster.fleet, replica_id, np.inf)
    anybody = cluster.control[0].router_first != NOBODY
    while cluster.control[0].router_first != NOBODY:
        end(cluster, cluster.control[0].router_first, LOST)
    return bool(anybody)
