"""The fast simulator and the naive reference, written apart, agree under a scheduler that does anything."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.batch.actions import dispatch, drop, preempt, set_timer
from servegym.envs.sim.batch.queues import has_room, now_s, num_waiting
from servegym.envs.sim.batch.scheduler import BatchScheduler, compiled_schedule
from servegym.envs.sim.batch.state import DROPPED, GOOD, LATE, UNSERVED, ClusterState
from tests.conftest import examples
from tests.envs.sim.batch.random_cases import GRID_S, random_case, run_both
from tests.reference.batch.fleet import Fleet

ACTIONS = 12


@kernel
def draw(state: ClusterState, below: int) -> int:
    """A number from 0 on, by the minimal standard generator of Park and Miller (CACM 1988)."""
    if state.memory[0] == 0:
        state.memory[0] = state.parameters[0]
    state.memory[0] = (state.memory[0] * 16807) % 2147483647
    return int(state.memory[0] // 64) % below


@compiled_schedule
def at_random(state: ClusterState, event: int, subject: int) -> None:
    """Two actions on average, of those that are allowed."""
    for _ in range(1 + draw(state, 3)):
        action = draw(state, ACTIONS)
        model = draw(state, state.num_models)
        gpu = draw(state, state.num_gpus)
        waiting = num_waiting(state, model)
        if action < 8:
            if waiting > 0 and has_room(state, gpu):
                dispatch(state, model, gpu, 1 + draw(state, min(waiting, state.max_batch[model])))
        elif action == 8:
            if waiting > 0:
                drop(state, model, 1 + draw(state, waiting))
        elif action == 9:
            if state.held[gpu] == 1:
                preempt(state, gpu)
        else:
            timer = draw(state, state.num_models + 1)
            steps = draw(state, 9) - 2
            set_timer(state, timer, math.inf if steps == 6 else now_s(state) + steps * GRID_S)


class AtRandom:
    """The same over the reference."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.last = seed

    def draw(self, below: int) -> int:
        """As above."""
        self.last = self.last * 16807 % 2147483647
        return self.last // 64 % below

    def schedule(self, event: str, subject: int) -> None:
        """As above."""
        fleet = self.fleet
        for _ in range(1 + self.draw(3)):
            action = self.draw(ACTIONS)
            model = self.draw(len(fleet.models))
            gpu = fleet.gpus[self.draw(len(fleet.gpus))]
            waiting = len(fleet.queues[model])
            if action < 8:
                if waiting and gpu.has_room:
                    fleet.dispatch(model, gpu, 1 + self.draw(min(waiting, fleet.largest(model))))
            elif action == 8:
                if waiting:
                    fleet.drop(model, 1 + self.draw(waiting))
            elif action == 9:
                if len(gpu.held) == 1:
                    fleet.preempt(gpu)
            else:
                timer = self.draw(len(fleet.models) + 1)
                steps = self.draw(9) - 2
                fleet.set_timer(timer, math.inf if steps == 6 else fleet.now + steps * GRID_S)


def check(seed: int):
    case = random_case(seed)
    first = int(case.rng.integers(1, 2147483647))
    scheduler = BatchScheduler("at_random", at_random, np.array([float(first)]), memory_size=1)
    return case, run_both(case, scheduler, AtRandom, {"seed": first})[0]


@given(seed=st.integers(0, 2**63 - 1))
@examples(600)
def test_equal_on_random_cases(seed: int) -> None:
    """Outcome, GPU, batch size, start and end of every request; sums; what an autoscaler sees."""
    check(seed)


def test_random_cases_are_worth_comparing() -> None:
    """All outcomes, preemption, waiting for models to load, and GPUs that come and go."""
    cases = [check(seed) for seed in range(60)]
    outcomes = np.concatenate([results.outcome for _, results in cases])
    assert np.bincount(outcomes, minlength=4)[[GOOD, LATE, DROPPED, UNSERVED]].min() > 20
    assert sum(results.num_preempted for _, results in cases) > 50
    scaled = [results for case, results in cases if case.wanted]
    assert np.mean([results.gpu_used_s.min() < results.duration_s for results in scaled]) > 0.5
    limited = [case for case, _ in cases if case.cluster.has_limited_memory]
    assert len(limited) > 5
