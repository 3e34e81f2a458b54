"""A scenario of batch serving fixes everything but the policy: models, GPUs, delays, traffic."""

from servegym.envs.batch_scenario.scenario import BatchScenario, load_batch_scenario

__all__ = ["BatchScenario", "load_batch_scenario"]
