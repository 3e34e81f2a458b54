"""LoongServe's global manager: every iteration has the degree of parallelism that its batch is worth.

Wu et al., "LoongServe: Efficiently Serving Long-Context Large Language Models with Elastic Sequence
Parallelism" (SOSP 2024), as `router/manager.py` of their artifact has it. Groups of instances decode until a
dispatch (`dispatch.py`) admits waiting requests; these are prefilled in a macro iteration
(`macro_iteration.py`), in batches that a dynamic program finds (`batching.py`), on instances that were free
or that groups give up. A scaling plan (`scaling_plan.py`) gives every group that decodes room and masters.
Rules, and what
their code does differently: docs/elastic_sequence_parallelism.md. Above all, batches here are the best there
are; the pruning of their code, as published, always leaves one."""

import numpy as np

from servegym.agents.elastic_managers.dispatch import dispatch
from servegym.agents.elastic_managers.loongserve_state import (
    IS_MACRO,
    SPARE,
    WAIT,
    integers_for,
    reals_for,
)
from servegym.agents.elastic_managers.macro_iteration import (
    begin_macro_iteration,
    end_macro_iteration,
    go_on_with_macro_iteration,
)
from servegym.agents.elastic_managers.scaling_plan import decode_planned, plan_scaling
from servegym.agents.elastic_managers.workspace import MAX_WAIT, check_max_requests, group_row
from servegym.agents.parameters import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.elastic.actions import pause
from servegym.envs.sim.elastic.fleet_use import latest_of_all, requests_in_groups
from servegym.envs.sim.elastic.groups import nobody_runs
from servegym.envs.sim.elastic.manager import Manager, compiled_manage
from servegym.envs.sim.elastic.state import PREFILLS, FleetState


@compiled_manage
def manage(state: FleetState) -> None:
    """Looks ahead once nothing runs; while prefills run, helps those who can go on."""
    if state.integers[IS_MACRO] and _someone_prefills(state):
        go_on_with_macro_iteration(state)
    elif nobody_runs(state):
        if state.integers[IS_MACRO]:
            end_macro_iteration(state)
        _step(state)


@routine
def _step(state: FleetState) -> None:
    """The next iteration of all."""
    while True:
        nobody = requests_in_groups(state) == 0
        if nobody or state.integers[WAIT] >= state.parameters[MAX_WAIT]:
            num_admitted = dispatch(state)
            if num_admitted > 0:
                state.integers[WAIT] = 0
                state.integers[IS_MACRO] = 1
                begin_macro_iteration(state, num_admitted)
                return
        if nobody:
            return
        num_spare = _find_empty(state)
        if not plan_scaling(state, num_spare):
            pause(state, latest_of_all(state))
            state.integers[WAIT] = 0
        elif decode_planned(state, num_spare, 0.0) > 0:
            state.integers[WAIT] += 1
            return


@kernel
def _someone_prefills(state: FleetState) -> bool:
    count = 0
    for group in range(state.size.size):
        count += state.size[group] > 0 and state.activity[group] == PREFILLS
    return count > 0


@kernel
def _find_empty(state: FleetState) -> int:
    """Fills SPARE with the instances that hold nothing; how many."""
    spare = state.integers[group_row(state, SPARE) :]
    count = 0
    for instance in range(state.num_instances):
        if state.used[instance] == 0:
            spare[count] = instance
            count += 1
    return count


@published(
    "elastic_manager",
    source="Wu et al., LoongServe, SOSP 2024, and its public artifact",
    evidence=Evidence.CODE,
    complexity="O(q log b + b (b + N)) for q waiting and b running requests; O(N^2 n log n) for n admitted",
)
def loongserve(
    max_requests: PositiveInt = 1024,
    max_tokens: PositiveInt = 500_000,
    max_wait: NonNegativeInt = 10,
    max_prefill_s: PositiveFloat = 5.0,
    decoding_s: NonNegativeFloat = 0.022,
    master_batch: PositiveInt = 128,
    out_of_order: NonNegativeInt = 8,
    scale_up: bool = True,
    pruned: bool = True,
    one_batch: bool = False,
) -> Manager:
    """Limits of a dispatch, what it takes a decode iteration for, and how decodes scale up.

    `max_requests`: in all groups. `max_tokens`: of the prefills of a dispatch. `max_wait`: decode iterations
    between dispatches. `max_prefill_s`: of more than one request. `decoding_s`: assumed time of a decode
    iteration. `master_batch`: requests of a master before one more is added. `out_of_order`: dispatches in a
    row that may pass requests over. `scale_up`: without it decodes keep their instances. `pruned`: batches
    are found faster. `one_batch`: those admitted together are one batch, which is what the bounds of the
    authors' code come to.
    """
    parameters = (
        max_requests,
        max_tokens,
        max_wait,
        max_prefill_s,
        decoding_s,
        master_batch,
        out_of_order,
        scale_up,
        pruned,
        one_batch,
    )

    def integers(num_instances: int, max_group: int, _: int) -> int:
        check_max_requests(max_requests, max_group)
        return integers_for(max_requests, num_instances)

    return Manager(
        "loongserve",
        manage,
        np.array(parameters, np.float64),
        memory_for=lambda num_instances, _, __: reals_for(max_requests, num_instances),
        integers_for=integers,
    )
