"""A scenario fixes everything but the router: workload, fleet, engine, cost model, objective."""

from collections.abc import Collection
from functools import cached_property

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.linear import LEAST_CONTEXT_TOKENS, LinearClock, linear_clock
from servegym.envs.metrics import SloLimits
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.scenario.fleet_plan import first_extra, fleet_plan
from servegym.envs.scenario.traffic import Traffic
from servegym.envs.sim.llm.cluster.plan import Migration
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.needs import refuse_unmet_needs
from servegym.envs.sim.llm.ranking import Ranking
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import FLEET_COLUMNS, Results, simulate
from servegym.envs.workloads import Workload


class Scenario:
    """A scenario ready to run. Raises InputError for any value that does not fit the others.

    migration: who moves running requests, None for nobody. ranking: who goes first on a replica, None as its
    engine has it.
    plan: the fleet. engine, cost: of the first replica that has them; in a plain fleet of all.
    extra: the first key that asks for more than a plain fleet, whose equal replicas are always there, known
    at once and reached at once by requests that come by themselves and stay to their end; None without any.
    """

    def __init__(
        self, config: ScenarioConfig, migration: Migration | None = None, ranking: Ranking | None = None
    ) -> None:
        self.config = config
        self.ranking = ranking
        self.name = config.name
        self.plan = fleet_plan(config, migration, ranking)
        self.num_replicas = len(self.plan.replicas)
        self.engine, self.cost = next(
            (each.engine, each.cost) for each in self.plan.replicas if each.engine and each.cost
        )
        budget = self.engine.max_num_batched_tokens
        full_iteration_s = (
            self.cost.overhead_s + self.cost.linear_s[budget] + self.cost.communication_s[budget]
        )
        self.prefill_s_per_token = float(full_iteration_s / budget)
        self.objective = config.objective
        self.traffic = Traffic(config.workload, config.episode, self.plan.served)
        self.extra = first_extra(config.fleet, self.plan) or self._extra_of_workload()
        if migration is not None:
            self.extra = self.extra or "rebalancer"
        if self.is_plain:
            self.traffic.check_fits(self.engine)
        else:
            for part in self.traffic.parts:
                self.plan.fits(part)

    @property
    def is_plain(self) -> bool:
        """Whether the plain simulator does it, which is faster, and what environments that schedule do."""
        return self.extra is None

    @property
    def clock(self) -> LinearClock:
        """`cost` in four numbers, for routers that forecast; of a toy engine as if one request had room."""
        kv_tokens = self.engine.num_kv_blocks * self.engine.block_size
        return linear_clock(self.cost, max(kv_tokens, LEAST_CONTEXT_TOKENS))

    @cached_property
    def setting(self) -> np.ndarray:
        """What an agent is told once, float32 (SETTING_FEATURES,): the columns SETTING_COLUMNS of view.py."""
        limits = self.engine.max_num_batched_tokens, self.engine.block_size
        weights = self.objective.ttft_weight, self.objective.latency_weight
        return np.array([*self.clock, *limits, self.traffic.mean_output_tokens, *weights], np.float32)

    @property
    def roles(self) -> tuple[str, ...]:
        """Of each replica, for routers that tell prefill and decode replicas apart."""
        return tuple(replica.role for replica in self.plan.replicas)

    def require_plain(self, by_whom: str) -> None:
        """Raises InputError naming the key that makes the scenario more than `by_whom` does."""
        if self.extra is not None:
            raise InputError(
                f"{self.extra}: {by_whom} has equal replicas that are always there, without latencies, and "
                "requests without sessions, cancellation and images; servegym simulate and Routing-v0 do more"
            )

    def simulate(self, workload: Workload, router: Router, *, seed: int = 0, log: bool = False) -> Results:
        """Serves requests with the fleet under a router, which draws from `seed`; `log` records iterations.

        Raises InputError where a request can never be served, or goes to a replica that is not available.
        """
        if not self.is_plain:
            return simulate_fleet(workload, router, self.plan, ranking=self.ranking, seed=seed, log=log)
        return simulate(
            workload,
            router,
            num_replicas=self.num_replicas,
            engine=self.engine,
            cost=self.cost,
            ranking=self.ranking,
            seed=seed,
            log=log,
        )

    def check_router(self, router: Router) -> None:
        """Raises InputError where a test workload or the fleet lacks what the router needs."""
        self._refuse_unmet_needs(f"router {router.name}", router.needs)

    def check_ranking(self) -> None:
        """Raises InputError where a test workload or the fleet lacks what the ranking, if any, needs."""
        if self.ranking is not None:
            self._refuse_unmet_needs(f"scheduler {self.ranking.name}", self.ranking.needs)

    def _refuse_unmet_needs(self, who: str, needs: Collection[str]) -> None:
        if needs:
            members = self.plan.replicas
            refuse_unmet_needs(
                who,
                needs,
                self.traffic.test_workload(0),
                [member.engine for member in members],
                [member.role for member in members],
            )

    def slo_limits(self, workload: Workload) -> SloLimits:
        """What the requests were promised: by their classes, or all of them by the objective."""
        if workload.slo_class is None:
            return SloLimits(self.objective.slo_ttft_s, self.objective.slo_tpot_s)
        ttft_s, tpot_s = (
            np.array([getattr(each, key) for each in workload.slo_classes])[workload.slo_class]
            for key in ("ttft_s", "tpot_s")
        )
        return SloLimits(ttft_s, tpot_s)

    def _extra_of_workload(self) -> str | None:
        clients = self.config.workload.clients
        for key in ("cancel_share", "image_share"):
            if getattr(clients, key) > 0:
                return f"scenario.workload.clients.{key}"
        if clients.session_turns > 1:
            return "scenario.workload.clients.session_turns"
        for part in self.traffic.parts:
            for column in FLEET_COLUMNS:
                if getattr(part, column) is not None:
                    return f"scenario.workload.trace (its {column})"
        return None


def load_scenario(name: str, overrides: tuple[str, ...] = ()) -> Scenario:
    """The scenario `conf/scenario/<name>.yaml`, with Hydra overrides such as `scenario.fleet.replicas=4`.

    Raises InputError for an unknown name, listing the known ones.
    """
    from servegym.envs.scenario.compose import compose_scenario

    return Scenario(compose_scenario(name, overrides))
