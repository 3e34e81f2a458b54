"""What a policy may need of the workload and of the fleet, and refusing it where that is not there."""

from collections.abc import Collection, Iterable

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.workloads import Workload

NEEDS = {
    "predictions": ("predicted output lengths", "scenario.workload.predictor"),
    "prefix_caching": ("an engine with a prefix cache", "scenario.engine.prefix_caching"),
    "prefixes": ("prompts whose contents are given", "scenario.workload.trace, of a format with contents"),
    "sessions": ("requests that follow others up", "scenario.workload.clients.session_turns"),
    "priorities": ("priorities of requests", "scenario.workload.clients.priority_shares"),
    "slo_classes": ("SLO classes", "scenario.workload.clients.slo_classes"),
    "tenants": ("tenants", "scenario.workload.clients.tenant_shares"),
    "roles": ("replicas that only prefill", "scenario.fleet.pools, their role"),
}
"""By name, what a router or a ranking can need, and which key of a scenario gives it."""

READ_IDENTITIES = frozenset({"prefixes", "sessions"})
"""Needs of routers that read SESSION or PREFIX of a request, which environments do not show."""


def refuse_unmet_needs(
    who: str,
    needs: Collection[str],
    workload: Workload,
    engines: Iterable[Engine | None],
    roles: Collection[str] = (),
) -> None:
    """Raises InputError naming the first need of `who` that workload, engines and roles do not meet."""
    has = {
        "predictions": workload.predicted_output_tokens is not None,
        "prefix_caching": any(engine is not None and engine.prefix_caching for engine in engines),
        "prefixes": workload.prefix_ids is not None,
        "sessions": workload.parent is not None,
        "priorities": workload.priority is not None,
        "slo_classes": workload.slo_class is not None,
        "tenants": workload.tenant is not None,
        "roles": "prefill" in roles,
    }
    for need, (what, key) in NEEDS.items():
        if need in needs and not has[need]:
            raise InputError(f"{who} needs {what}: the scenario has none ({key})")
