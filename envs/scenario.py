"""A scenario fixes everything but the router: workload, fleet, engine, cost model, objective."""

from dataclasses import fields

from servegym.costmodels.compile import kv_capacity_blocks
from servegym.costmodels.errors import InputError
from servegym.costmodels.iteration import IterationCost
from servegym.costmodels.specs import GPUS, MODELS
from servegym.envs.clocks import CLOCKS
from servegym.envs.scenario_config import ScenarioConfig, require
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.traffic import Traffic


class Scenario:
    """A scenario ready to run. Raises InputError for any value that does not fit the others."""

    def __init__(self, config: ScenarioConfig) -> None:
        self.config = config
        self.name = config.name
        fleet = config.fleet
        require(fleet.gpu in GPUS, "scenario.fleet.gpu", fleet.gpu, "one of " + ", ".join(sorted(GPUS)))
        require(
            fleet.model in MODELS, "scenario.fleet.model", fleet.model, "one of " + ", ".join(sorted(MODELS))
        )
        kind = config.costmodel.kind
        require(kind in CLOCKS, "scenario.costmodel.kind", kind, "one of " + ", ".join(CLOCKS))
        require(1 <= fleet.replicas <= 4096, "scenario.fleet.replicas", fleet.replicas, "from 1 to 4096")
        gpu, model = GPUS[fleet.gpu], MODELS[fleet.model]
        num_kv_blocks = config.engine.num_kv_blocks
        if num_kv_blocks is None:
            num_kv_blocks = kv_capacity_blocks(
                model,
                gpu,
                tensor_parallel=fleet.tensor_parallel,
                memory_fraction=fleet.memory_fraction,
                block_size=config.engine.block_size,
            )
        settings = {field.name: getattr(config.engine, field.name) for field in fields(config.engine)}
        try:
            self.engine = Engine(**settings | {"num_kv_blocks": num_kv_blocks})
        except InputError as error:
            raise InputError(f"scenario.{error}") from None
        cost = CLOCKS[kind](model, gpu, fleet.tensor_parallel, self.engine)
        self.cost: IterationCost = cost._replace(overhead_s=config.costmodel.cpu_overhead_s)
        budget = self.engine.max_num_batched_tokens
        full_iteration_s = (
            self.cost.overhead_s + self.cost.linear_s[budget] + self.cost.communication_s[budget]
        )
        self.prefill_s_per_token = float(full_iteration_s / budget)
        self.num_replicas = fleet.replicas
        self.objective = config.objective
        self.traffic = Traffic(config.workload, config.episode)
        self.traffic.check_fits(self.engine)


def load_scenario(name: str, overrides: tuple[str, ...] = ()) -> Scenario:
    """The scenario `conf/scenario/<name>.yaml`, with Hydra overrides such as `scenario.fleet.replicas=4`.

    Raises InputError for an unknown name, listing the known ones.
    """
    from servegym.envs.compose import compose_scenario

    return Scenario(compose_scenario(name, overrides))
