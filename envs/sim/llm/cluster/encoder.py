"""Replicas with the role `encode`: one image at a time, first come first served."""

from servegym.costmodels.native.jit import routine
from servegym.envs.sim.llm.batch import is_urgent
from servegym.envs.sim.llm.cluster.places import come_to_router
from servegym.envs.sim.llm.cluster.state import Cluster
from servegym.envs.sim.llm.queues import pop_waiting
from servegym.envs.sim.llm.state import NOBODY


@routine
def start_encoding(cluster: Cluster, replica_id: int) -> None:
    """Starts to serve the first in the queue, if there is one and nobody is being served."""
    replica = cluster.fleet.replicas[replica_id]
    if replica.in_flight or replica.num_waiting == 0:
        return
    request_id = pop_waiting(cluster.fleet, replica_id)
    cluster.members[replica_id].serving = request_id
    replica.in_flight = 1
    replica.num_running = 1
    replica.clock_s = cluster.control[0].now_s + cluster.journeys[request_id].image_s


@routine
def end_encoding(cluster: Cluster, replica_id: int) -> None:
    """The request being served is encoded, and is to be routed again."""
    replica = cluster.fleet.replicas[replica_id]
    member = cluster.members[replica_id]
    request_id = member.serving
    member.serving = NOBODY
    member.stale = 1
    replica.in_flight = 0
    replica.num_running = 0
    replica.prompt_tokens -= cluster.fleet.requests[request_id].prompt_tokens
    replica.num_urgent -= is_urgent(cluster.fleet, request_id)
    cluster.journeys[request_id].encoded = 1
    cluster.journeys[request_id].caused_s = cluster.control[0].now_s
    come_to_router(cluster, request_id)
