"""What must hold of a fleet at any time. For tests and debugging."""

import numpy as np

from servegym.costmodels.native.jit import jit
from servegym.envs.sim.llm.cluster.places import has_ended
from servegym.envs.sim.llm.cluster.plan import ENCODE
from servegym.envs.sim.llm.cluster.state import ON_REPLICA, ROUTER, Cluster
from servegym.envs.sim.llm.invariants import check_replica
from servegym.envs.sim.llm.state import NOBODY


@jit
def check_cluster(cluster: Cluster) -> None:
    """Raises AssertionError naming the first invariant of docs/simulator.md that does not hold."""
    fleet = cluster.fleet
    count = cluster.members.shape[0]
    kept = np.zeros(count, np.int64)
    present = np.zeros(count, np.int64)
    seats = np.zeros(count, np.int64)
    at_router = 0
    for request_id in range(cluster.journeys.shape[0]):
        journey = cluster.journeys[request_id]
        at_router += journey.place == ROUTER
        if journey.holder != NOBODY:
            kept[journey.holder] += fleet.requests[request_id].blocks
        if cluster.migrations.shape[0] > 0 and cluster.migrations[request_id].source != NOBODY:
            kept[cluster.migrations[request_id].target] += cluster.migrations[request_id].blocks
            seats[cluster.migrations[request_id].target] += 1
        if journey.place == ON_REPLICA and not has_ended(cluster, request_id):
            present[journey.replica] += 1
    for replica_id in range(count):
        replica = fleet.replicas[replica_id]
        if cluster.members[replica_id].role == ENCODE:
            assert present[replica_id] == replica.num_waiting + replica.in_flight, "a request is lost"
            continue
        check_replica(fleet, replica_id)
        assert kept[replica_id] == replica.kept_blocks, "KV blocks are kept for nobody"
        assert seats[replica_id] == replica.reserved_seats, "seats are reserved for nobody"
        assert present[replica_id] == replica.num_unfinished, "a request is in two places or in none"
    request_id = cluster.control[0].router_first
    while request_id != NOBODY:
        assert cluster.journeys[request_id].place == ROUTER, "a request at the router is elsewhere"
        at_router -= 1
        request_id = fleet.requests[request_id].next
    assert at_router == 0, "a request at the router is not in its queue"
