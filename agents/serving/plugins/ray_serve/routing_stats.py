"""What a replica tells about its load: Ray Serve's routing stats, with the time at which they were true.

Serve's controller asks each replica for them every `request_routing_stats_period_s` and sends them to the
routers, which may be on other machines: the time is that of the wall clock.
"""

import time
from collections.abc import Mapping
from typing import Any

from servegym.agents.serving.fleet_view import REPORT_COLUMNS
from servegym.agents.serving.router import Router
from servegym.costmodels.errors import InputError

AT_KEY = "at_unix_s"


def routing_stats(report: Mapping[str, float]) -> dict[str, float]:
    """What `record_routing_stats` of a deployment returns for a load report that is true now.

    report: features of `fleet_view.REPORT_COLUMNS` by name; others are left out.
    """
    return {**{name: report[name] for name in REPORT_COLUMNS if name in report}, AT_KEY: time.time()}


async def fetch_routing_stats(session: Any, url: str, timeout_s: float = 1.0) -> dict[str, float]:
    """The same from an engine that answers GET `url` with its load report as JSON.

    session: an `aiohttp.ClientSession`. Raises what it raises; Serve then keeps the last stats.
    """
    began_s = time.time()
    async with session.get(url, timeout=timeout_s, raise_for_status=True) as response:
        report = await response.json()
    if not isinstance(report, Mapping):
        raise InputError(f"{url}: must answer with an object of JSON, not {type(report).__name__}")
    # It was true at some time between question and answer. The earlier one counts a request twice at worst.
    return {**routing_stats(report), AT_KEY: began_s}


def tell(router: Router, replica: str, stats: Mapping[str, Any]) -> None:
    """Reports stats of a replica to a router. Nothing where they hold no feature: Serve's users have others.

    InputError where a feature is no number >= 0; then the last report stays.
    """
    numbers = {name: value for name, value in stats.items() if name in REPORT_COLUMNS}
    if not numbers:
        return
    at = stats.get(AT_KEY)
    age_s = max(0.0, time.time() - at) if isinstance(at, int | float) else 0.0
    try:
        router.report(replica, numbers, router.clock() - age_s)
    except (TypeError, ValueError) as error:
        raise InputError(f"routing stats of {replica}: {error}") from error
