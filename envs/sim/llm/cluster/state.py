"""The state of a fleet behind one router: flat arrays around the `Fleet`, written by compiled code."""

from typing import Any, NamedTuple

import numpy as np

from servegym.envs.sim.llm.state import Fleet

ACTIVE, STARTING, LEAVING, OFF, SWITCHING, CHANGING = range(6)
"""Where a replica stands (STANDING of a row). LEAVING: draining while it has work, then inactive.

It is OFF when it has been seen empty since: the two differ in that only. SWITCHING: draining to have another
role; CHANGING: it changes it.
"""

MEMBER = np.dtype(
    [
        ("role", np.int64),  # see plan.py
        ("plan", np.int64),  # where it stands: ACTIVE, ...
        ("starts", np.int64),  # how often it was started or began to change its role
        ("next_role", np.int64),  # while SWITCHING and CHANGING
        ("failed", np.int64),
        ("stale", np.int64),  # 1: it was looked at or changed since `Cluster.next_s` was found
        ("link_free_s", np.float64),  # when its link has sent all it has to send
        ("link_latency_s", np.float64),
        ("link_bytes_per_s", np.float64),
        ("kv_bytes_per_block", np.float64),
        ("sent_requests", np.int64),  # by the router, so far
        ("sent_tokens", np.int64),  # to prefill of these
        ("settled_requests", np.int64),  # of those sent: no longer on their way, see unseen.py
        ("settled_tokens", np.int64),
        ("serving", np.int32),  # encode: the request being served
        ("leaving_first", np.int32),  # cancelled requests that leave at the end of the iteration in flight
        ("leaving_last", np.int32),
        ("stopping_first", np.int32),  # migrating requests that stop at the end of the iteration in flight
        ("stopping_last", np.int32),
    ],
    align=True,
)
"""A replica as the fleet knows it."""

FUTURE, ROUTER, DISPATCH, ON_REPLICA, LINK, OVER = range(6)
"""Where a request is. OVER: cancelled or lost; a finished one is ON_REPLICA and has ENDED there."""

FINISHED, CANCELLED, LOST = range(3)
"""How a request has ended."""

JOURNEY = np.dtype(
    [
        ("think_s", np.float64),
        ("cancel_after_s", np.float64),
        ("image_s", np.float64),  # to encode its images
        ("gap_s", np.float64),  # since the arrival before its own
        ("caused_s", np.float64),  # of the event that made it come to the router; -inf: it arrived by itself
        ("over_s", np.float64),  # when it was cancelled or lost; NaN: not, or before it came
        ("place", np.int32),
        ("outcome", np.int32),
        ("replica", np.int32),  # it was sent to last; NOBODY: none yet
        ("on_way", np.int32),  # 1: the router has sent it, and it has not come to `replica` yet
        ("holder", np.int32),  # replica that holds its KV although it has left; NOBODY: none
        ("sends", np.int32),  # how often it was sent or has left: events of an earlier number are void
        ("has_images", np.int32),
        ("encoded", np.int32),
        ("cancelling", np.int32),  # it leaves at the end of the iteration in flight
        ("retries", np.int32),
        ("migrations", np.int32),
        ("parent", np.int32),
        ("first_child", np.int32),  # of its follow-ups
        ("next_sibling", np.int32),
        ("next_leaving", np.int32),
    ],
    align=True,
)
"""A request as the fleet knows it."""

MIGRATION = np.dtype(
    [
        ("number", np.int32),  # grows when one begins: events of an earlier one are void
        ("source", np.int32),  # NOBODY: the request is not migrating
        ("target", np.int32),
        ("preemptions", np.int32),  # of the request, when it began
        ("stages", np.int32),
        ("blocks", np.int32),  # sent, or reserved at the target for what is being sent
        ("next_stopping", np.int32),
    ],
    align=True,
)
"""A request on its way from one replica to another."""

(
    FAIL,
    RECOVER,
    SCALE,
    STARTED,
    CANCEL,
    ARRIVE,
    REACH,
    KV_ARRIVED,
    STAGE_SENT,
    LAST_STAGE_SENT,
    REBALANCE,
    LOOK,
    LOOK_TO_REBALANCE,
    SWITCHED,
) = range(14)
"""Kinds of fleet events. LOOK and LOOK_TO_REBALANCE: the state of this instant will be seen later."""

EVENT = np.dtype(
    [
        ("time_s", np.float64),
        ("number", np.int64),  # of equal times, what was scheduled first happens first
        ("kind", np.int32),
        ("subject", np.int32),  # request or replica; SCALE: replicas wanted
        ("serial", np.int32),  # void where the subject has another one by then
    ],
    align=True,
)

BETWEEN, HAPPENING, ROUTING, STARTING_ITERATIONS = range(4)
"""Where in an instant the loop stands."""

CONTROL = np.dtype(
    [
        ("now_s", np.float64),
        ("last_arrival_s", np.float64),
        ("step", np.int64),
        ("num_events", np.int64),  # scheduled so far
        ("heap_size", np.int64),
        ("next_open", np.int64),  # position in `Cluster.open_loop` of the next to arrive
        ("next_look", np.int64),  # and of the next whose stale state is due
        ("look_due", np.int64),  # the state of this instant will be seen later
        ("first_look", np.int64),  # in the ring of looks
        ("num_looks", np.int64),
        ("has_encoders", np.int64),
        ("has_decoders", np.int64),
        ("has_follow_ups", np.int64),
        ("rebalancings", np.int64),  # so far
        ("rebalances", np.int64),  # 1 while another one is scheduled
        ("num_moves", np.int64),  # of the last one
        ("router_first", np.int32),  # requests at the router
        ("router_last", np.int32),
        ("arriving_first", np.int32),  # follow-ups that arrive now, by number
        ("cursor", np.int32),  # request being routed
        ("before_cursor", np.int32),  # and the one before it at the router
    ],
    align=True,
)
"""The loop."""


class Cluster(NamedTuple):
    """Everything the compiled loop works on.

    fleet: the replicas (R) and requests (N). control: CONTROL (1,). members: MEMBER (R,).
    journeys: JOURNEY (N,). migrations: MIGRATION (N,), or (0,) where there are none.
    next_s: float64 (R,), when a replica next has news for the loop. fits: bool (R, N).
    open_loop: int32, requests that arrive by themselves, in order. events: EVENT, a heap.
    look_s: float64 (H,) and looks: float64 (H, R, ROUTER_REPLICA_FEATURES), a ring of rows as they were.
    scratch: int32 (N,). next_change: address of the function that finds `next_s`, see next_change.py.
    The others are the settings of `FleetPlan` and of its migration.
    """

    fleet: Fleet
    control: np.ndarray
    members: np.ndarray
    journeys: np.ndarray
    migrations: np.ndarray
    next_s: np.ndarray
    fits: np.ndarray
    open_loop: np.ndarray
    events: np.ndarray
    look_s: np.ndarray
    looks: np.ndarray
    scratch: np.ndarray
    next_change: Any
    dispatch_latency_s: float
    state_delay_s: float
    startup_s: float
    role_switch_s: float
    roles_change: int
    lose_on_failure: int
    rebalance_s: float
    last_stage_blocks: int
    max_stages: int
