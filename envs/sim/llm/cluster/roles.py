"""Replicas that change their role: they drain, are gone for `role_switch_s`, and come back empty."""

from servegym.costmodels.native.jit import routine
from servegym.envs.sim.llm.cluster.availability import empty, is_empty
from servegym.envs.sim.llm.cluster.events import schedule
from servegym.envs.sim.llm.cluster.plan import PREFILL
from servegym.envs.sim.llm.cluster.state import ACTIVE, CHANGING, SWITCHED, SWITCHING, Cluster


@routine
def switch_role(cluster: Cluster, replica_id: int, role: int) -> None:
    """A replica is to have another role; nothing where it must not leave its own, or nobody has the other."""
    members = cluster.members
    member = members[replica_id]
    if not cluster.roles_change or member.role == role or member.plan != ACTIVE:
        return
    known, others = False, 0
    for other in range(members.shape[0]):
        known = known or members[other].role == role
        others += other != replica_id and members[other].role == member.role and members[other].plan == ACTIVE
    if known and others > 0:
        member.plan = SWITCHING
        member.next_role = role


@routine
def begin_changes(cluster: Cluster) -> None:
    """Those that are to have another role and have drained begin to change it."""
    for replica_id in range(cluster.members.shape[0]):
        member = cluster.members[replica_id]
        if member.plan == SWITCHING and is_empty(cluster, replica_id):
            member.plan = CHANGING
            member.starts += 1
            changed_s = cluster.control[0].now_s + cluster.role_switch_s
            schedule(cluster, changed_s, SWITCHED, replica_id, member.starts)


@routine
def take_role(cluster: Cluster, replica_id: int) -> None:
    """A replica has changed its role."""
    empty(cluster, replica_id)
    member = cluster.members[replica_id]
    member.plan = ACTIVE
    member.role = member.next_role
    replica = cluster.fleet.replicas[replica_id]
    replica.hands_over = member.role == PREFILL
    replica.announces = replica.hands_over or cluster.control[0].has_follow_ups
