"""Names of what stands in front of workers."""

import pytest

from servegym.costmodels.errors import InputError
from servegym.experiments.live_comparison.contestant import Contestant


@pytest.mark.parametrize(
    "name, environment, simulated, ours",
    [
        ("picker:zoo:router", "envoy", "zoo:router", True),
        ("picker:least_loaded", "envoy", "jsq", True),
        ("ray:zoo:router", "ray_serve", "zoo:router", True),
        ("ray:pow2", "ray_serve", "power_of_two", False),
        ("ray:round_robin", "ray_serve", "round_robin", True),
        ("envoy:least_request", "envoy", "power_of_two", False),
        ("envoy:round_robin", "envoy", "round_robin", False),
        ("smg:power_of_two", "routers", None, False),
        ("sglang-router:cache_aware", "routers", None, False),
    ],
)
def test_what_a_name_means(name, environment, simulated, ours):
    contestant = Contestant(name)
    assert (contestant.environment, contestant.simulated, contestant.is_ours) == (
        environment,
        simulated,
        ours,
    )


@pytest.mark.parametrize(
    "name, said",
    [
        ("nginx:round_robin", "routers: nginx:round_robin: must be FAMILY:POLICY, of picker, ray, envoy"),
        ("envoy", "unknown policy ''"),
        ("envoy:best", "unknown policy 'best', allowed are round_robin"),
        ("picker:zoo:none", "zoo:none: must be one of zoo:router"),
        (
            "picker:jsq",
            "must be zoo:NAME, the folder of an exported policy, or one of least_loaded, round_robin",
        ),
    ],
)
def test_a_name_that_means_nothing_is_refused(name, said):
    with pytest.raises(InputError, match=said):
        Contestant(name)
