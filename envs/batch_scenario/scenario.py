"""A scenario of batch serving fixes everything but the policy: models, GPUs, delays, traffic."""

from servegym.envs.batch_scenario.config import BatchScenarioConfig
from servegym.envs.batch_scenario.models import cluster_of, shares_of
from servegym.envs.batch_scenario.traffic import BatchTraffic
from servegym.envs.sim.batch.autoscaler import Autoscaler
from servegym.envs.sim.batch.scheduler import BatchScheduler
from servegym.envs.sim.batch.simulate import BatchResults, simulate_batches
from servegym.envs.workloads.batch_workload import BatchWorkload


class BatchScenario:
    """A scenario ready to run. Raises InputError for any value that does not fit the others.

    traffic: training episodes and test workloads. rate_rps: of all models together, what both are made for.
    """

    def __init__(self, config: BatchScenarioConfig) -> None:
        self.config = config
        self.name = config.name
        self.cluster = cluster_of(config)
        self.objective = config.objective
        self.traffic = BatchTraffic(
            config.workload, config.episode, shares_of(config, len(self.cluster.models))
        )
        self.rate_rps = config.workload.rate_rps

    def simulate(
        self,
        workload: BatchWorkload,
        scheduler: BatchScheduler,
        autoscaler: Autoscaler | None = None,
        *,
        log: bool = False,
    ) -> BatchResults:
        """Serves requests with the cluster under a scheduler; `log` records the batches."""
        return simulate_batches(self.cluster, workload, scheduler, autoscaler, log)


def load_batch_scenario(name: str, overrides: tuple[str, ...] = ()) -> BatchScenario:
    """The scenario `conf/scenario/<name>.yaml`, with Hydra overrides such as `scenario.fleet.num_gpus=4`.

    Raises InputError for an unknown name, and for a scenario of another kind, listing the known ones.
    """
    from servegym.envs.scenario.compose import compose_scenario_of

    return BatchScenario(compose_scenario_of(BatchScenarioConfig, name, overrides))
