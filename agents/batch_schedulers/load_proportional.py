"""Load-proportional autoscaler, our own rule: as many GPUs as the load needs, and some room.

Chen et al., "Symphony: Optimized DNN Model Serving using Deferred Batch Scheduling" (arXiv 2308.07470) claims
GPU use in proportion to load and robust autoscaling; that is what this rule is for. What rule the paper's
authors have is not public. Deferred batches are as large as the deadlines allow whatever the number of GPUs,
so both the GPU seconds that the requests of a window need at the sizes of staggered batches, and those in
which batches did run (`required_s`, `busy_s`: docs/batch_serving.md, "Autoscaling"), say how many GPUs it
takes:

    needed = min(headroom * required_s, busy_s / utilisation) / every_s

The first asks for too many where many models share few GPUs, as it takes each as if alone; the second where
there are more GPUs than needed for one model, whose batches then get smaller.

GPUs are added at once: up to `needed`, and where more than `bad_limit` of the requests that ended were bad by
the share `growth`, unless GPUs called for before are still to start. They are given back after `patience`
windows in a row that needed fewer, down to the most of these. A bad window needs at least those there are.
"""

import math
from typing import Annotated

import numpy as np

from servegym.agents.parameters import NonNegativeFloat, PositiveFloat, PositiveInt, at_least, within
from servegym.agents.published import Evidence, published
from servegym.envs.sim.batch.autoscaler import (
    BUSY_S,
    NOW_S,
    NUM_ACTIVE,
    NUM_BAD,
    NUM_ENDED,
    REQUIRED_S,
    WINDOW_S,
    Autoscaler,
    compiled_autoscaler,
)

_MAX_GPUS, _STARTUP_S, _HEADROOM, _BAD_LIMIT, _GROWTH, _PATIENCE, _UTILISATION = range(7)
_LOW_WINDOWS, _MOST_NEEDED, _STARTED_S = range(3)
"""The parameters. Memory: windows in a row that needed fewer, the most of these, when all have started."""


@compiled_autoscaler
def scale(signal: np.ndarray, parameters: np.ndarray, memory: np.ndarray, wanted: np.ndarray) -> None:
    """More GPUs at once, fewer after some patience."""
    active = signal[NUM_ACTIVE]
    needed_s = min(parameters[_HEADROOM] * signal[REQUIRED_S], signal[BUSY_S] / parameters[_UTILISATION])
    needed = math.ceil(needed_s / signal[WINDOW_S])
    if signal[NUM_BAD] > parameters[_BAD_LIMIT] * signal[NUM_ENDED]:
        has_started = signal[NOW_S] >= memory[_STARTED_S]
        needed = max(needed, math.ceil((1 + parameters[_GROWTH]) * active) if has_started else active)
    needed = min(max(needed, 1), parameters[_MAX_GPUS])
    wanted[0] = max(needed, active)
    if needed < active:
        memory[_LOW_WINDOWS] += 1
        memory[_MOST_NEEDED] = max(memory[_MOST_NEEDED], needed)
        if memory[_LOW_WINDOWS] < parameters[_PATIENCE]:
            return
        wanted[0] = memory[_MOST_NEEDED]
    elif needed > active:
        memory[_STARTED_S] = signal[NOW_S] + parameters[_STARTUP_S] + signal[WINDOW_S]
    memory[_LOW_WINDOWS] = memory[_MOST_NEEDED] = 0


@published(
    "autoscaler",
    source="our own, for the claim of Chen et al., Symphony, arXiv 2308.07470",
    evidence=Evidence.OURS,
    complexity="O(1), and O(M B) for what M models with batches up to B need",
)
def load_proportional(
    max_gpus: PositiveInt,
    initial: PositiveInt = 1,
    startup_s: NonNegativeFloat = 0.0,
    every_s: PositiveFloat = 1.0,
    headroom: Annotated[float, at_least(1)] = 1.2,
    utilisation: Annotated[float, within(0.1, 1)] = 0.65,
    bad_limit: Annotated[float, within(0, 1)] = 0.01,
    growth: PositiveFloat = 0.2,
    patience: PositiveInt = 10,
) -> Autoscaler:
    """The most GPUs, those at the start, how long one takes to start, the window, the rule's numbers.

    All are ours. The defaults were chosen on waves, steps, ramps and spikes of Poisson arrivals, for one
    model and for 24.
    """
    parameters = (max_gpus, startup_s, headroom, bad_limit, growth, patience, utilisation)
    return Autoscaler(
        "load_proportional",
        scale,
        every_s,
        startup_s,
        initial,
        np.array(parameters, np.float64),
        memory_size=3,
    )
