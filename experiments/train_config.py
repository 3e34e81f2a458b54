"""The configuration of a training run: what `conf/train.yaml` holds and what its run directory keeps."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from servegym.agents.learners.algorithms import ALGORITHMS
from servegym.agents.learners.families import check_fits
from servegym.costmodels.errors import InputError


@dataclass
class TrainConfig:
    """Schema of `conf/train.yaml`."""

    scenario: Any = MISSING  # of the schema that the family of the network has
    agent: Any = MISSING  # of the configuration of one of ALGORITHMS
    seed: int = 0
    total_steps: int = MISSING
    num_envs: int = MISSING
    checkpoint_steps: int = MISSING
    run_dir: str = MISSING
    resume: bool = False

    def __post_init__(self) -> None:
        for key, least in (("seed", 0), ("total_steps", 1), ("num_envs", 1), ("checkpoint_steps", 1)):
            value = getattr(self, key)
            if value != MISSING and value < least:
                raise InputError(f"{key} = {value}: must be at least {least}")
        if MISSING not in (self.scenario, self.agent):
            check_fits(self.agent.network, self.scenario)


for _name, _algorithm in ALGORITHMS.items():
    _schema = "schema" if _name == "ppo" else f"{_name}_schema"
    ConfigStore.instance().store(group="agent", name=_schema, node=_algorithm.config)
