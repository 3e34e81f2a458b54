"""What a run costs while it runs. docs/elastic_sequence_parallelism.md, "What accrues".

`rates` is what all requests in the system add in a second, `costs` what they have added so far.
"""

import math

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.elastic.state import FleetState

WHOLE, INPUT, OUTPUT, LATE = range(4)
"""Normalised latency of whole requests, of their input, of their output, in s a token; late requests."""

FIRST_TOKEN_S, PER_TOKEN_S = range(2)
"""Limits of a request: of its first token since its arrival, and of each further one on average."""


@kernel
def accrue(state: FleetState, seconds: float) -> None:
    """Time passes."""
    for kind in range(LATE):
        state.costs[kind] += seconds * state.rates[kind]


@kernel
def charge_arrival(state: FleetState, request: int) -> None:
    """It is in the system from now on."""
    state.rates[WHOLE] += 1 / (state.prompt[request] + state.output[request])
    state.rates[INPUT] += 1 / state.prompt[request]


@kernel
def charge_first_token(state: FleetState, request: int) -> None:
    """It has its first token, now."""
    state.rates[INPUT] -= 1 / state.prompt[request]
    if state.output[request] > 1:
        state.rates[OUTPUT] += 1 / (state.output[request] - 1)
    if state.first_token_s[request] - state.arrival_s[request] > state.limits[request, FIRST_TOKEN_S]:
        state.costs[LATE] += 1


@kernel
def charge_finish(state: FleetState, request: int) -> None:
    """It has all its tokens, now."""
    state.rates[WHOLE] -= 1 / (state.prompt[request] + state.output[request])
    further = state.output[request] - 1
    if further > 0:
        state.rates[OUTPUT] -= 1 / further
    first_s = state.first_token_s[request] - state.arrival_s[request]
    token_s = (state.finish_s[request] - state.first_token_s[request]) / max(further, 1)
    is_late = token_s > state.limits[request, PER_TOKEN_S]
    if is_late and first_s <= state.limits[request, FIRST_TOKEN_S]:  # else it has been charged before
        state.costs[LATE] += 1


@kernel
def charge_rejection(state: FleetState, request: int) -> None:
    """It has waited, and leaves the system unserved."""
    state.rates[WHOLE] -= 1 / (state.prompt[request] + state.output[request])
    first_s = state.first_token_s[request] - state.arrival_s[request]  # nan where it has none
    if math.isnan(first_s):
        state.rates[INPUT] -= 1 / state.prompt[request]
    elif state.output[request] > 1:
        state.rates[OUTPUT] -= 1 / (state.output[request] - 1)
    if not first_s > state.limits[request, FIRST_TOKEN_S]:  # else it has been charged before
        state.costs[LATE] += 1
