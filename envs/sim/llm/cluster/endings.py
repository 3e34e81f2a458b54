"""Requests that end early: cancelled by their clients, or lost. And sessions: who comes after whom."""

from servegym.costmodels.native.jit import routine
from servegym.envs.sim.llm.cluster.events import schedule
from servegym.envs.sim.llm.cluster.places import has_ended, take_out, touch
from servegym.envs.sim.llm.cluster.state import (
    ARRIVE,
    CANCELLED,
    LOOK,
    LOST,
    ON_REPLICA,
    OVER,
    Cluster,
)
from servegym.envs.sim.llm.state import BROUGHT, NOBODY, SWAPPED, WAITING


@routine
def cancel(cluster: Cluster, request_id: int) -> None:
    """The client leaves: at once, or where the request runs when the iteration in flight has ended."""
    journey = cluster.journeys[request_id]
    replica_id = journey.replica
    if journey.place == ON_REPLICA:
        touch(cluster, replica_id)
    if has_ended(cluster, request_id):
        return
    if journey.place == ON_REPLICA and cluster.fleet.replicas[replica_id].in_flight:
        member = cluster.members[replica_id]
        state = cluster.fleet.requests[request_id].state
        running = state != WAITING and state != BROUGHT and state != SWAPPED
        if running or member.serving == request_id:
            journey.cancelling = 1
            journey.next_leaving = NOBODY
            if member.leaving_first == NOBODY:
                member.leaving_first = request_id
            else:
                cluster.journeys[member.leaving_last].next_leaving = request_id
            member.leaving_last = request_id
            return
    end(cluster, request_id, CANCELLED)


@routine
def let_leave(cluster: Cluster, replica_id: int) -> None:
    """The iteration has ended that cancelled requests have waited for."""
    member = cluster.members[replica_id]
    request_id = member.leaving_first
    member.leaving_first = NOBODY
    while request_id != NOBODY:
        journey = cluster.journeys[request_id]
        following = journey.next_leaving
        journey.cancelling = 0
        if not has_ended(cluster, request_id):
            end(cluster, request_id, CANCELLED)
        request_id = following


@routine
def end(cluster: Cluster, request_id: int, outcome: int) -> None:
    """A request leaves wherever it is; its follow-ups will never come."""
    take_out(cluster, request_id)
    conclude(cluster, request_id, outcome)


@routine
def conclude(cluster: Cluster, request_id: int, outcome: int) -> None:
    """The end of a request that has been taken out, and of its follow-ups."""
    journeys = cluster.journeys
    journeys[request_id].place = OVER
    journeys[request_id].outcome = outcome
    journeys[request_id].over_s = cluster.control[0].now_s
    other = journeys[request_id].first_child
    while other != NOBODY:
        journeys[other].place = OVER
        journeys[other].outcome = LOST
        following = journeys[other].first_child
        while following == NOBODY and other != request_id:
            following = journeys[other].next_sibling
            other = journeys[other].parent
        other = following


@routine
def start_follow_ups(cluster: Cluster, parent_id: int) -> None:
    """A request has finished: those that follow it come when their users have thought."""
    control = cluster.control[0]
    finish_s = cluster.fleet.requests[parent_id].finish_s
    request_id = cluster.journeys[parent_id].first_child
    while request_id != NOBODY:
        journey = cluster.journeys[request_id]
        arrival_s = max(control.now_s, finish_s + journey.think_s)
        journey.caused_s = control.now_s
        cluster.fleet.requests[request_id].arrival_s = arrival_s
        schedule(cluster, arrival_s, ARRIVE, request_id, 0)
        if cluster.state_delay_s > 0.0:
            look_s = max(arrival_s - cluster.state_delay_s, control.now_s)
            if look_s < arrival_s:
                schedule(cluster, look_s, LOOK, request_id, 0)
        request_id = journey.next_sibling
