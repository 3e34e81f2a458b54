"""Simulates a whole workload on an elastic fleet."""

from dataclasses import dataclass

import numpy as np

from servegym.costmodels.native.structs import fields_of
from servegym.envs.sim.elastic.fleet import ElasticFleet
from servegym.envs.sim.elastic.loop import run
from servegym.envs.sim.elastic.manager import Manager
from servegym.envs.sim.elastic.setup import Simulation
from servegym.envs.sim.elastic.state import (
    ALREADY_MEMBER,
    ERROR_CODE,
    ERROR_GROUP,
    ERROR_INSTANCE,
    ERROR_REQUEST,
    GROUP_TOO_LARGE,
    INSTANCE_RUNS,
    MIGRATED_TOKENS,
    NO_ERROR,
    NO_ROOM,
    NO_SUCH_INSTANCE,
    NOT_AT_REST,
    NOT_WAITING,
    NOTHING_GIVEN,
    NUM_DECODES,
    NUM_MIGRATIONS,
    NUM_PAUSES,
    NUM_PREFILLS,
    NUM_REQUESTS,
    NUM_SCALE_UPS,
    PYTHON_ERROR,
    REJECTED,
    SAME_GROUP,
    TOO_FEW_TOKENS,
    TOO_MANY_GROUPS,
)
from servegym.envs.workloads.workload import Workload


@dataclass(frozen=True, eq=False)
class ElasticResults:
    """What happened to N requests; times in seconds.

    first_token_s, finish_s: nan where that never came. rejected: bool, too long for the fleet (or its
    manager). num_prefills, num_decodes: iterations. duration_s: to the last event. What is neither finished
    nor rejected was still unserved when nothing happened any more.
    """

    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    first_token_s: np.ndarray
    finish_s: np.ndarray
    rejected: np.ndarray
    duration_s: float
    num_prefills: int
    num_decodes: int
    num_scale_ups: int
    num_pauses: int
    num_migrations: int
    migrated_tokens: int

    @property
    def finished(self) -> np.ndarray:
        """(N,) bool."""
        return ~np.isnan(self.finish_s)


def simulate_elastic(fleet: ElasticFleet, workload: Workload, manager: Manager) -> ElasticResults:
    """Runs a workload to its end.

    ValueError for an action of the manager that is not allowed; what one in Python raises comes through.
    """
    simulation = Simulation(fleet, manager, max(1, workload.num_requests))
    simulation.begin(workload)
    run(simulation.state)
    check(simulation)
    return results_of(simulation)


def check(simulation: Simulation) -> None:
    """Raises what has ended a simulation before its time."""
    simulation.raise_error()
    state = simulation.state
    code = int(state.error[ERROR_CODE])
    if code == NO_ERROR:
        return
    group, request, instance = (
        int(state.error[column]) for column in (ERROR_GROUP, ERROR_REQUEST, ERROR_INSTANCE)
    )
    what = {
        NOT_WAITING: f"request {request} does not wait: must be in the queue",
        INSTANCE_RUNS: f"an instance of group {group} ({instance}) runs: must be at rest",
        NO_SUCH_INSTANCE: f"instance {instance}: must be 0 to {simulation.fleet.num_instances - 1}",
        NO_ROOM: f"KV tokens of group {group} have no room on its instances ({instance})",
        GROUP_TOO_LARGE: f"group {group}: must have at most {simulation.fleet.max_group} requests",
        TOO_MANY_GROUPS: f"more than {len(state.size)} groups at once",
        NOT_AT_REST: f"group {group} (request {request}): must be a group at rest",
        ALREADY_MEMBER: f"instance {instance} is a member of group {group} already",
        SAME_GROUP: f"group {group} cannot be merged with itself",
        TOO_FEW_TOKENS: f"migration from instance {instance}: group {group} must have the tokens there, and "
        "the target must be another instance",
        NOTHING_GIVEN: "a prefill needs a request and an instance",
        PYTHON_ERROR: "a function in Python failed",
    }[code]
    raise ValueError(f"manager {simulation.manager.name}, at {state.clock[0]:.6f} s: {what}")


def results_of(simulation: Simulation) -> ElasticResults:
    """What has happened so far."""
    state = fields_of(simulation.state)
    counters = state.counters
    count = int(counters[NUM_REQUESTS])
    return ElasticResults(
        arrival_s=state.arrival_s[:count].copy(),
        prompt_tokens=state.prompt[:count].copy(),
        output_tokens=state.output[:count].copy(),
        first_token_s=state.first_token_s[:count].copy(),
        finish_s=state.finish_s[:count].copy(),
        rejected=state.fate[:count] == REJECTED,
        duration_s=float(state.clock[0]),
        num_prefills=int(counters[NUM_PREFILLS]),
        num_decodes=int(counters[NUM_DECODES]),
        num_scale_ups=int(counters[NUM_SCALE_UPS]),
        num_pauses=int(counters[NUM_PAUSES]),
        num_migrations=int(counters[NUM_MIGRATIONS]),
        migrated_tokens=int(counters[MIGRATED_TOKENS]),
    )
