"""The configuration of a training run: what `conf/train.yaml` holds and what its run directory keeps."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from servegym.agents.learners.config import PPOConfig
from servegym.costmodels.errors import InputError
from servegym.envs.scenario.config import ScenarioConfig


@dataclass
class TrainConfig:
    """Schema of `conf/train.yaml`."""

    scenario: ScenarioConfig = MISSING
    agent: PPOConfig = MISSING
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


ConfigStore.instance().store(group="agent", name="schema", node=PPOConfig)
