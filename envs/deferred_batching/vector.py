"""The native vector form of `servegym/DeferredBatching-v0`."""

from servegym.envs.batch_scenario import BatchScenario
from servegym.envs.deferred_batching.env import DEFAULT_SCENARIO, batch_streams, deferred_batching_problem
from servegym.envs.sim.batch.autoscaler import Autoscaler
from servegym.envs.vector import NativeVectorEnv


class DeferredBatchingVectorEnv(NativeVectorEnv):
    """`num_envs` episodes: `DeferredBatchingEnv` says what they are, `NativeVectorEnv` how they run."""

    def __init__(
        self,
        num_envs: int = 64,
        scenario: str | BatchScenario = DEFAULT_SCENARIO,
        split: str = "train",
        autoscaler: Autoscaler | None = None,
        flat: bool = False,
        copy: bool = True,
    ) -> None:
        streams = batch_streams(scenario, split, num_envs)
        super().__init__(deferred_batching_problem(streams, autoscaler, flat), copy)
