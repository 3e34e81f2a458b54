"""A scenario fixes everything but the policy: traffic, fleet, engines, clocks, objective."""

from servegym.envs.scenario.scenario import Scenario, load_scenario

__all__ = ["Scenario", "load_scenario"]
