"""Which trackers follow a training run: the schema of `conf/tracking/`."""

from dataclasses import dataclass
from importlib.util import find_spec

from omegaconf import MISSING

from servegym.costmodels.errors import InputError

WANDB_MODES = ("offline", "online")

NEEDED = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}
"""Packages that a tracker needs, which the extra of its name installs."""


@dataclass
class MlflowConfig:
    """A store of MLflow: a database (`sqlite:///FILE` needs no server) or a server, `http://...`."""

    tracking_uri: str = MISSING
    experiment: str = MISSING


@dataclass
class WandbConfig:
    """A project of Weights & Biases.

    mode: offline keeps the run in `folder`/wandb, from where `wandb sync` uploads it. entity: the user or
    team, None for the default one.
    """

    project: str = MISSING
    entity: str | None = None
    mode: str = MISSING
    folder: str = MISSING

    def __post_init__(self) -> None:
        if self.mode not in (MISSING, *WANDB_MODES):
            raise InputError(f"tracking.wandb.mode = {self.mode}: must be one of {', '.join(WANDB_MODES)}")


@dataclass
class TrackingConfig:
    """The trackers of a run, any number of them. What they are told never changes the run."""

    tensorboard: bool = False
    mlflow: MlflowConfig | None = None
    wandb: WandbConfig | None = None

    @property
    def chosen(self) -> dict[str, MlflowConfig | WandbConfig]:
        """Those that need more than a folder, by name."""
        both = {"mlflow": self.mlflow, "wandb": self.wandb}
        return {name: config for name, config in both.items() if config is not None}

    def check_installed(self) -> None:
        """InputError where a tracker chosen is not installed."""
        for name in self.chosen:
            for package in NEEDED[name]:
                if find_spec(package) is None:
                    raise InputError(
                        f"tracking={name}: the package {package} is missing: pip install 'servegym[{name}]'"
                    )
