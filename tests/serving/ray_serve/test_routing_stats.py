"""What a replica of Ray Serve tells of itself, and when that was true."""

import time

import pytest

from servegym.agents.serving.plugins.ray_serve.routing_stats import routing_stats, tell
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router


@pytest.mark.parametrize("time_scale", [1.0, 5.0])
def test_its_age_is_in_seconds_of_the_fleet(time_scale: float) -> None:
    fleet = FleetView(["a", "b"], report_max_age_s=10.0)
    router = Router(LeastLoaded(), fleet, time_scale=time_scale)
    tell(router, "a", routing_stats({"running": 3.0}, time.time() - 2.0))
    decision = router.route(RoutedRequest("1", prompt_tokens=10.0))
    age_s, none = decision.ages_s
    assert age_s == pytest.approx(2.0 / time_scale, abs=0.5 / time_scale)
    assert none == float("inf")
    assert decision.replica == "b"
