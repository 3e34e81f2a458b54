"""What a replica tells about its load: Ray Serve's routing stats, with the time at which they were true.

Serve's controller asks each replica for them every `request_routing_stats_period_s` and sends them to the
routers, which may be on other machines: the time is that of the wall clock.
"""

import time
from collections.abc import Mapping
from typing import Any

from servegym.agents.serving.routing.fleet_view import REPORT_COLUMNS
from servegym.agents.serving.routing.router import Router
from servegym.costmodels.errors import InputError

AT_KEY, AVAILABLE_KEY = "at_unix_s", "available"

UNAVAILABLE = {AVAILABLE_KEY: 0.0}
"""The stats of a replica that must not be chosen, though Serve thinks that it lives."""


def routing_stats(report: Mapping[str, float], at_unix_s: float | None = None) -> dict[str, float]:
    """What `record_routing_stats` of a deployment returns for a load report that is true now, or at a time.

    report: features of `fleet_view.REPORT_COLUMNS` by name; others are left out.
    """
    numbers = {name: report[name] for name in REPORT_COLUMNS if name in report}
    return {**numbers, AVAILABLE_KEY: 1.0, AT_KEY: time.time() if at_unix_s is None else at_unix_s}


def tell(router: Router, replica: str, stats: Mapping[str, Any]) -> None:
    """Reports stats of a replica to a router. Nothing where they hold no feature: Serve's users have others.

    InputError where a feature is no number >= 0; then the last report stays.
    """
    if AVAILABLE_KEY in stats:
        router.set_available(replica, bool(stats[AVAILABLE_KEY]))
    numbers = {name: value for name, value in stats.items() if name in REPORT_COLUMNS}
    if not numbers:
        return
    at = stats.get(AT_KEY)
    age_s = max(0.0, time.time() - at) if isinstance(at, int | float) else 0.0
    try:
        router.report(replica, numbers, router.clock() - age_s / router.time_scale)
    except (TypeError, ValueError) as error:
        raise InputError(f"routing stats of {replica}: {error}") from error
