"""The configuration of a training run: what `conf/train.yaml` holds and what its run directory keeps."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from servegym.agents.learners.algorithms import ALGORITHMS
from servegym.agents.learners.families import check_fits, check_plays
from servegym.costmodels.errors import InputError
from servegym.envs.suites import Suite
from servegym.experiments.config_errors import no_value
from servegym.experiments.tracking.config import TrackingConfig


@dataclass
class TrainConfig:
    """Schema of `conf/train.yaml`."""

    scenario: Any = None  # of the schema that the family of the network has; null with a suite
    suite: Suite | None = None
    agent: Any = MISSING  # of the configuration of one of ALGORITHMS
    seed: int = 0
    total_steps: int = MISSING
    num_envs: int = MISSING
    checkpoint_steps: int = MISSING
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    run_dir: str = MISSING
    resume: bool = False

    def __post_init__(self) -> None:
        for key, least in (("seed", 0), ("total_steps", 1), ("num_envs", 1), ("checkpoint_steps", 1)):
            value = getattr(self, key)
            if value != MISSING and value < least:
                raise InputError(f"{key} = {value}: must be at least {least}")
        if self.agent == MISSING:
            return
        if self.suite is None:
            if self.scenario is None:
                raise InputError(no_value(["scenario"]))
            check_fits(self.agent.network, self.scenario)
        elif self.scenario is not None:
            raise InputError(f"suite = {self.suite.name}: must not be given with a scenario")
        else:
            check_plays(self.agent.network, self.suite)

    @property
    def trained_on(self) -> str:
        """The name of the scenario or of the suite."""
        return str(self.scenario.name if self.suite is None else self.suite.name)

    @property
    def scenarios(self) -> list[Any]:
        """Configurations of what is trained on, several with a suite."""
        if self.suite is None:
            return [self.scenario]
        return [self.suite.config(entry) for entry in self.suite.training]


for _name, _algorithm in ALGORITHMS.items():
    _schema = "schema" if _name == "ppo" else f"{_name}_schema"
    ConfigStore.instance().store(group="agent", name=_schema, node=_algorithm.config)
