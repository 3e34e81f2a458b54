"""VTC, the virtual token counter: waiting requests of the tenant first that has been served least.

Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), its algorithm 2. A counter for each
tenant grows by w_p for each prompt token when a request is admitted, and by w_q for each token generated. The
tenant with the least counter among those who wait is next, its requests by arrival; whoever runs stays. A
tenant that comes back to the queue is lifted to the least counter of those who wait, or if nobody does to
that of the last tenant admitted, so that nobody saves up by being away.

Each replica counts for itself. Picking one by one, with the counter growing at each pick, is the same order
as by the counter each request will find: that of its tenant and w_p for all prompt tokens of the tenant's
that wait before it. Tokens are counted when the ranking is asked, so not before a decision needs them.
"""

import numpy as np

from servegym.agents.parameters import NonNegativeFloat, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.agents.schedulers.keys import FIRST
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.ranking import (
    ARRIVAL_S,
    GENERATED_TOKENS,
    GONE,
    MEMORY,
    PLACE,
    PROMPT_TOKENS,
    TENANT,
    WAITING,
    Array,
    Ranking,
    compiled_ranking,
)

COUNTED, QUEUED, LAST_KEY = MEMORY, MEMORY + 1, MEMORY + 2
"""1 + generated tokens counted, 0 before its prompt is; whether it waited before; its last key then."""


@kernel
def _count_service(requests: Array, parameters: Array, memory: Array, counters: Array) -> None:
    """Adds what was served since; memory[0] becomes 1 + the tenant that was admitted last."""
    last_key = FIRST
    for i in range(requests.shape[0]):
        request = requests[i]
        tenant = int(request[TENANT]) % counters.shape[0]
        holds_blocks = request[PLACE] != WAITING and request[PLACE] != GONE
        if request[COUNTED] == 0 and (holds_blocks or request[GENERATED_TOKENS] > 0):
            counters[tenant] += parameters[0] * request[PROMPT_TOKENS]
            request[COUNTED] = 1.0
            if request[LAST_KEY] >= last_key:
                last_key = request[LAST_KEY]
                memory[0] = tenant + 1.0
        if request[COUNTED] > 0:
            counters[tenant] += parameters[1] * (request[GENERATED_TOKENS] + 1.0 - request[COUNTED])
            request[COUNTED] = request[GENERATED_TOKENS] + 1.0


@kernel
def _lift(tenant: int, waiting: Array, memory: Array, counters: Array) -> None:
    """The counter of a tenant that comes to the queue."""
    least = np.inf
    for other in range(counters.shape[0]):
        if waiting[other] > 0:
            least = min(least, counters[other])
    if least == np.inf and memory[0] > 0:
        least = counters[int(memory[0]) - 1]
    if least < np.inf:
        counters[tenant] = max(counters[tenant], least)


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The counter that a waiting request will find; parameters: w_p and w_q.

    memory: 1 + the tenant admitted last, then the counters.
    """
    counters = memory[1:]
    _count_service(requests, parameters, memory, counters)
    before = np.zeros(counters.shape[0])  # cost of the tenant's prompts that wait before
    waiting = np.zeros(counters.shape[0])
    for i in range(requests.shape[0]):
        if requests[i, PLACE] == WAITING and requests[i, QUEUED] > 0:
            waiting[int(requests[i, TENANT]) % counters.shape[0]] += 1.0
    order = np.argsort(requests[:, ARRIVAL_S], kind="mergesort")  # stable
    for i in order:
        if requests[i, PLACE] == WAITING and requests[i, QUEUED] == 0:
            tenant = int(requests[i, TENANT]) % counters.shape[0]
            if waiting[tenant] == 0 and requests[i, COUNTED] == 0:
                _lift(tenant, waiting, memory, counters)
            waiting[tenant] += 1.0
    for i in order:
        request = requests[i]
        request[QUEUED] = 0.0
        keys[i] = FIRST
        if request[PLACE] == WAITING:
            tenant = int(request[TENANT]) % counters.shape[0]
            keys[i] = counters[tenant] + before[tenant]
            if request[COUNTED] == 0:  # else it was preempted, and has paid
                before[tenant] += parameters[0] * request[PROMPT_TOKENS]
            request[QUEUED], request[LAST_KEY] = 1.0, keys[i]


@published(
    "scheduler",
    source='Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, algorithm 2',
    evidence=Evidence.PAPER,
    complexity="O(n log n + t^2), t tenants",
)
def vtc(w_p: NonNegativeFloat = 1.0, w_q: NonNegativeFloat = 2.0, num_tenants: PositiveInt = 64) -> Ranking:
    """The paper's weights of prompt and generated tokens; tenants beyond `num_tenants` share counters."""
    return Ranking(
        "vtc",
        rank,
        parameters=np.array([w_p, w_q], np.float64),
        memory_size=1 + num_tenants,
        needs=frozenset({"tenants"}),
    )
