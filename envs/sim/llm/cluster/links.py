"""KV on its way: every replica has a link of its own, which sends one transfer after the other."""

from servegym.costmodels.native.jit import routine
from servegym.envs.sim.llm.cluster.places import enqueue_brought, release_kept
from servegym.envs.sim.llm.cluster.state import Cluster
from servegym.envs.sim.llm.cluster.unseen import settle


@routine
def send_blocks(cluster: Cluster, replica_id: int, blocks: int) -> float:
    """Gives KV blocks to the link of a replica; returns when they have arrived."""
    member = cluster.members[replica_id]
    start_s = max(cluster.control[0].now_s, member.link_free_s)
    transfer_s = member.link_latency_s + blocks * member.kv_bytes_per_block / member.link_bytes_per_s
    member.link_free_s = start_s + transfer_s
    arrival_s: float = member.link_free_s
    return arrival_s


@routine
def receive(cluster: Cluster, request_id: int) -> None:
    """The KV of a request has arrived where it was sent to decode."""
    settle(cluster, request_id)
    release_kept(cluster, request_id)
    enqueue_brought(cluster, cluster.journeys[request_id].replica, request_id)
