"""When a replica will next have news, if nobody sends it anything until then."""

import math

import numpy as np
from numba.core import types

from servegym.costmodels.iterations.decode_spans import decode_span_seconds
from servegym.costmodels.native.calls import address_of
from servegym.costmodels.native.jit import kernel, routine
from servegym.costmodels.native.structs import fields_of
from servegym.envs.sim.llm import schedulers
from servegym.envs.sim.llm.engine import MULTI_BIN, RANKED, STATIC, VLLM_V1
from servegym.envs.sim.llm.fleet import advance, type_of
from servegym.envs.sim.llm.schedulers import vllm_v1
from servegym.envs.sim.llm.state import Fleet


def next_change_function(fleet: Fleet) -> object:
    """Address of a function `(fleet, replica_id, next_s)`, for a replica advanced to now.

    It writes into `next_s` (R,) when the next iteration ends in which a prefill may complete or a request
    finish; an earlier iteration's end may come first. The iteration due now may be started for that.
    """
    used = {engine.scheduler for engine in fleet.engines}
    if used == {VLLM_V1}:
        function = _vllm_v1
    else:
        function = _mixed if used & {RANKED, STATIC, MULTI_BIN} else _any
    fleet_type = type_of(fields_of(fleet))
    return address_of(function, fleet_type, types.int64, types.float64[::1])


@routine
def _vllm_v1(fleet: Fleet, replica_id: int, next_s: np.ndarray) -> None:
    _next_change(fleet, replica_id, next_s, vllm_v1.horizon)


@routine
def _any(fleet: Fleet, replica_id: int, next_s: np.ndarray) -> None:
    _next_change(fleet, replica_id, next_s, schedulers.horizon)


@routine
def _mixed(fleet: Fleet, replica_id: int, next_s: np.ndarray) -> None:
    _next_change(fleet, replica_id, next_s, schedulers.horizon_of_any)


@kernel
def _next_change(fleet, replica_id, next_s, horizon):
    replica = fleet.replicas[replica_id]
    next_s[replica_id] = np.inf
    if not replica.in_flight and replica.num_unfinished > 0 and replica.clock_s < np.inf:
        skips = fleet.lookup.decode_s.size == 0 and not fleet.log.enabled
        iterations = horizon(fleet, replica_id) if skips else 0
        if iterations > 0:
            decodes = replica.num_decodes
            kv_tokens = replica.context_offset + decodes * replica.iteration
            span_s = decode_span_seconds(fleet.decode_lines[replica.group], decodes, kv_tokens, iterations)
            next_s[replica_id] = replica.clock_s + span_s
            return
        advance(fleet, replica_id, math.nextafter(replica.clock_s, np.inf))
    if replica.in_flight:
        next_s[replica_id] = replica.clock_s
