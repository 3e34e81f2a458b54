"""The published heuristics under the runtime's contracts: the code that the simulator runs (needs numba)."""

import numpy as np

from servegym.agents.heuristics import make_router
from servegym.agents.schedulers import make_scheduler
from servegym.agents.serving import contracts
from servegym.agents.serving.contracts import ILLEGAL, UNKNOWN, EnginePlan, EngineState, as_it_is
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.linear import LinearClock
from servegym.envs.sim.llm import ranking, view
from servegym.envs.sim.llm.router import random_state

LENDS = frozenset({"predictions", "prefix_caching", "priorities", "sessions"})
"""Needs (`envs/sim/llm/needs.py`) that a serving system can fulfil."""


class HeuristicRouter:
    """A published router: 1 for the replica it chooses, 0 for others that are available.

    InputError for one that needs what a serving system does not have.
    """

    bounded = True

    def __init__(self, name: str, parameters: dict[str, object] | None = None, seed: int = 0) -> None:
        given = dict(parameters or {})
        if isinstance(given.get("clock"), list | tuple):
            given["clock"] = LinearClock(*map(float, given["clock"]))  # type: ignore[call-overload]
        router = make_router(name, **given)
        lacking = router.needs - LENDS
        if lacking or router.reads_router_columns:
            what = ", ".join(sorted(lacking)) or "columns of the simulator"
            raise InputError(f"router {name}: needs {what}, which no serving system tells")
        self.name = name
        self._router = router
        self._random = random_state(np.random.SeedSequence(seed))
        self._memory = router.new_memory(0)
        self._rows = np.zeros((0, view.ROUTER_REPLICA_FEATURES))
        self._request = np.full(view.ROUTER_REQUEST_FEATURES, UNKNOWN)

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        """float32 (R,). A fleet of another size than the last one's makes it forget what it remembers."""
        if len(replicas) != len(self._rows):
            self._rows = np.full((len(replicas), view.ROUTER_REPLICA_FEATURES), UNKNOWN)
            self._memory = self._router.new_memory(len(replicas))
        self._rows[:, : view.REPLICA_FEATURES] = replicas
        self._request[: view.REQUEST_FEATURES] = request
        self._request[view.SESSION] = session
        router = self._router
        chosen = router.choose(self._rows, self._request, router.parameters, self._memory, self._random)
        scores = np.where(replicas[:, view.AVAILABLE] > 0, 0.0, ILLEGAL).astype(np.float32)
        scores[chosen] = 1.0
        return scores


class RankedScheduler:
    """A published ranking: it orders who waits and, ranking batches, who runs. The rest is the engine's.

    InputError for one that must remember requests, or needs what a serving system does not have.
    """

    bounded = True

    def __init__(self, name: str, parameters: dict[str, object] | None = None) -> None:
        self._ranking = make_scheduler(name, **(parameters or {}))
        if self._ranking.every_iteration or self._ranking.memory_size or self._ranking.needs - LENDS:
            raise InputError(
                f"scheduler {name}: must remember requests or needs what no serving system tells"
            )
        self.name = name

    def plan(self, state: EngineState) -> EnginePlan:
        """The engine's own plan with the order of the ranking; equal keys go by arrival."""
        num_waiting = len(state.waiting)
        keys = self._keys(state)
        order = np.argsort(keys[:num_waiting], kind="stable")
        plan = as_it_is(state)._replace(waiting=tuple(order.tolist()))
        if self._ranking.ranks == "queue":
            return plan
        return plan._replace(running=tuple(np.argsort(keys[num_waiting:], kind="stable").tolist()))

    def _keys(self, state: EngineState) -> np.ndarray:
        table = np.concatenate([state.waiting, state.running])
        rows = np.zeros((len(table), ranking.REQUEST_COLUMNS))
        rows[:, ranking.ARRIVAL_S] = -table[:, contracts.SINCE_ARRIVAL_S]
        rows[:, ranking.PROMPT_TOKENS] = table[:, contracts.PROMPT_TOKENS]
        rows[:, ranking.GENERATED_TOKENS] = table[:, contracts.GENERATED_TOKENS]
        rows[:, ranking.COMPUTED_TOKENS] = table[:, contracts.COMPUTED_TOKENS]
        predicted = table[:, contracts.PREDICTED_OUTPUT_TOKENS]
        rows[:, ranking.PREDICTED_OUTPUT_TOKENS] = predicted
        remaining = predicted - table[:, contracts.GENERATED_TOKENS]
        rows[:, ranking.PREDICTED_REMAINING_TOKENS] = remaining
        rows[:, ranking.PRIORITY] = table[:, contracts.PRIORITY]
        rows[:, ranking.TTFT_SLO_S] = rows[:, ranking.TPOT_SLO_S] = np.inf
        rows[len(state.waiting) :, ranking.PLACE] = ranking.RUNNING
        limits = state.limits
        replica = np.zeros(ranking.REPLICA_COLUMNS)
        replica[ranking.FREE_BLOCKS], replica[ranking.TOTAL_BLOCKS] = state.free_blocks, limits.num_kv_blocks
        replica[ranking.BLOCK_SIZE] = limits.block_size
        replica[ranking.MAX_BATCHED_TOKENS] = limits.token_budget
        replica[ranking.MAX_SEQS] = limits.max_num_seqs
        keys = np.zeros(len(table))
        self._ranking.rank(rows, replica, self._ranking.parameters, np.zeros(0), keys)
        return keys
