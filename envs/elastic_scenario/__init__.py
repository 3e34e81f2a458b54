"""A scenario of elastic sequence parallelism fixes everything but the policy: fleet, clock, traffic, SLO."""

from servegym.envs.elastic_scenario.scenario import ElasticScenario, load_elastic_scenario

__all__ = ["ElasticScenario", "load_elastic_scenario"]
