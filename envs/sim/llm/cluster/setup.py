"""Making the state of a fleet that is to serve a workload."""

import numpy as np

from servegym.costmodels.native.jit import jit
from servegym.costmodels.native.structs import fields_of, struct
from servegym.envs.sim.llm.cluster.events import schedule
from servegym.envs.sim.llm.cluster.next_change import next_change_function
from servegym.envs.sim.llm.cluster.plan import ROLES, FleetPlan
from servegym.envs.sim.llm.cluster.rebalancing import schedule_look_to_rebalance, schedule_rebalancing
from servegym.envs.sim.llm.cluster.state import (
    CONTROL,
    EVENT,
    FAIL,
    JOURNEY,
    LOOK,
    MEMBER,
    MIGRATION,
    RECOVER,
    SCALE,
    Cluster,
)
from servegym.envs.sim.llm.log import Log
from servegym.envs.sim.llm.prefix_state import load_contents, shared_block_keys
from servegym.envs.sim.llm.ranking_state import RankingState
from servegym.envs.sim.llm.setup import ReplicaSpec, load_requests, new_fleet
from servegym.envs.sim.llm.state import NOBODY, Fleet
from servegym.envs.sim.llm.view import ROUTER_REPLICA_FEATURES
from servegym.envs.workloads import Workload

_LINKS = ("link_latency_s", "link_bytes_per_s", "kv_bytes_per_block")
_NOBODY_IN_JOURNEY = ("replica", "holder", "parent", "first_child", "next_sibling")
_NOBODY_IN_CONTROL = ("router_first", "arriving_first", "cursor", "before_cursor")
_FIRST_LOOKS = 16


def new_cluster(
    workload: Workload, plan: FleetPlan, log: Log | None = None, ranking: RankingState | None = None
) -> Cluster:
    """A fleet before the first event; `log` is where it records. InputError where a request fits nowhere."""
    fits = plan.fits(workload)
    fleet = _fleet_with(workload, plan, log, ranking)
    count = workload.num_requests
    cluster = struct(
        Cluster(
            fleet=fleet,
            control=_control(workload, plan),
            members=_members(plan),
            journeys=_journeys(workload, plan),
            migrations=_migrations(count if plan.migration else 0),
            next_s=np.full(len(plan.replicas), np.inf),
            fits=fits,
            open_loop=np.flatnonzero(_parents(workload) < 0).astype(np.int32),
            events=np.zeros(8 * count + 4 * (len(plan.failures) + len(plan.scaling)) + 256, EVENT).view(
                np.recarray
            ),
            look_s=np.zeros(_FIRST_LOOKS),
            looks=np.zeros((_FIRST_LOOKS, len(plan.replicas), ROUTER_REPLICA_FEATURES)),
            scratch=np.zeros(count, np.int32),
            next_change=next_change_function(fleet),
            dispatch_latency_s=float(plan.dispatch_latency_s),
            state_delay_s=float(plan.state_delay_s),
            startup_s=float(plan.startup_s),
            role_switch_s=float(plan.role_switch_s or 0.0),
            roles_change=int(plan.role_switch_s is not None),
            lose_on_failure=int(plan.on_failure == "lost"),
            rebalance_s=float(plan.migration.every_s) if plan.migration else np.inf,
            last_stage_blocks=plan.migration.last_stage_blocks if plan.migration else 0,
            max_stages=plan.migration.max_stages if plan.migration else 0,
        )
    )
    _schedule_plan(cluster, plan)
    return cluster


def with_more_room(cluster: Cluster) -> Cluster:
    """The same with twice the room for events and for looks at the fleet."""
    fields = fields_of(cluster)
    control = fields.control[0]
    size = len(fields.look_s)
    order = (control.first_look + np.arange(size)) % size
    looks = np.concatenate([fields.looks[order], np.zeros_like(fields.looks)])
    look_s = np.concatenate([fields.look_s[order], np.zeros(size)])
    control.first_look = 0
    events = np.concatenate([fields.events, np.zeros_like(fields.events)]).view(np.recarray)
    return struct(fields._replace(events=events, look_s=look_s, looks=looks))


def _fleet_with(workload: Workload, plan: FleetPlan, log: Log | None, ranking: RankingState | None) -> Fleet:
    """Replicas by the numbers of the plan; an encode replica has an engine that nobody is sent to."""
    engines = [
        ReplicaSpec(m.engine, m.cost) for m in plan.replicas if m.role != "encode" and m.engine and m.cost
    ]
    engine = iter(engines)
    specs = [engines[0] if m.role == "encode" else next(engine) for m in plan.replicas]
    sizes = [spec.engine.block_size for spec in specs if spec.engine.prefix_caching]
    count = workload.num_requests
    keys, offsets = shared_block_keys(workload, sizes[0]) if sizes else (np.zeros(0, np.int64), None)
    fleet = new_fleet(specs, count, num_block_keys=len(keys), log=log, ranking=ranking)
    load_requests(fleet, np.arange(count, dtype=np.int32), workload)
    if offsets is not None:
        load_contents(fleet.cache, 0, 0, 0, keys, offsets, _parents(workload).astype(np.int32))
    if workload.image_tokens is not None and not any(m.role == "encode" for m in plan.replicas):
        fleet.requests["image_s"] = _image_seconds(workload, plan)
    # A replica has news where a request may go on from it, or another follows.
    fleet.replicas["hands_over"] = [member.role == "prefill" for member in plan.replicas]
    fleet.replicas["announces"] = fleet.replicas["hands_over"] | (workload.parent is not None)
    return fleet


def _parents(workload: Workload) -> np.ndarray:
    return np.full(workload.num_requests, NOBODY) if workload.parent is None else workload.parent


def _image_seconds(workload: Workload, plan: FleetPlan) -> np.ndarray:
    """Seconds (N,) to encode the images of each request; 0 without any."""
    if workload.image_tokens is None:
        return np.zeros(workload.num_requests)
    seconds = plan.encode_overhead_s + workload.image_tokens * plan.encode_s_per_token
    return np.where(workload.image_tokens > 0, seconds, 0.0)


def _control(workload: Workload, plan: FleetPlan) -> np.ndarray:
    control = np.zeros(1, CONTROL).view(np.recarray)
    control["now_s"] = -np.inf
    control["last_arrival_s"] = np.nan
    control["has_encoders"] = any(member.role == "encode" for member in plan.replicas)
    control["has_follow_ups"] = workload.parent is not None
    control["has_decoders"] = any(member.role == "decode" for member in plan.replicas)
    for field in _NOBODY_IN_CONTROL:
        control[field] = NOBODY
    return control


def _members(plan: FleetPlan) -> np.ndarray:
    members = np.zeros(len(plan.replicas), MEMBER).view(np.recarray)
    members["role"] = [ROLES.index(member.role) for member in plan.replicas]
    members["link_free_s"] = -np.inf
    for field in _LINKS:
        members[field] = [getattr(member, field) for member in plan.replicas]
    for field in ("serving", "leaving_first", "stopping_first"):
        members[field] = NOBODY
    return members


def _journeys(workload: Workload, plan: FleetPlan) -> np.ndarray:
    journeys = np.zeros(workload.num_requests, JOURNEY).view(np.recarray)
    for field in _NOBODY_IN_JOURNEY:
        journeys[field] = NOBODY
    journeys["caused_s"] = -np.inf
    journeys["over_s"] = np.nan
    journeys["gap_s"] = np.nan
    journeys["cancel_after_s"] = np.inf if workload.cancel_after_s is None else workload.cancel_after_s
    journeys["image_s"] = _image_seconds(workload, plan)
    journeys["has_images"] = 0 if workload.image_tokens is None else workload.image_tokens > 0
    journeys["think_s"] = 0.0 if workload.think_s is None else workload.think_s
    parents = _parents(workload)
    journeys["parent"] = parents
    for i in np.flatnonzero(parents >= 0)[::-1]:
        journeys["next_sibling"][i] = journeys["first_child"][parents[i]]
        journeys["first_child"][parents[i]] = i
    return journeys


def _migrations(count: int) -> np.ndarray:
    migrations = np.zeros(count, MIGRATION).view(np.recarray)
    for field in ("source", "target", "next_stopping"):
        migrations[field] = NOBODY
    return migrations


@jit
def _schedule(cluster: Cluster, time_s: float, kind: int, subject: int) -> None:
    schedule(cluster, time_s, kind, subject, 0)


@jit
def _start_rebalancing(cluster: Cluster) -> None:
    schedule_rebalancing(cluster)
    if cluster.state_delay_s > 0.0:
        schedule_look_to_rebalance(cluster, 1)


def _schedule_plan(cluster: Cluster, plan: FleetPlan) -> None:
    """Failures, scaling and rebalancing; and a look back from where somebody at the router may be routed."""
    available_s = []
    for failure in plan.failures:
        _schedule(cluster, float(failure.time_s), FAIL, failure.replica)
        _schedule(cluster, float(failure.until_s), RECOVER, failure.replica)
        available_s.append(failure.until_s)
    for time_s, wanted in plan.scaling:
        _schedule(cluster, float(time_s), SCALE, wanted)
        available_s += [time_s, time_s + plan.startup_s]
    if plan.migration:
        _start_rebalancing(cluster)
    if plan.state_delay_s > 0:
        for time_s in available_s:
            _schedule(cluster, float(time_s) - plan.state_delay_s, LOOK, 0)
