"""`servegym validate`: how far the clock of the simulator is from measurements it has not seen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from omegaconf import MISSING, DictConfig

from servegym.costmodels.errors import InputError
from servegym.experiments import validate_e2e, validate_engine, validate_kernels, validate_peers
from servegym.experiments.configs import read_config
from servegym.experiments.provenance import provenance


@dataclass
class ValidateConfig:
    """Schema of `conf/validate.yaml`."""

    what: str = MISSING
    data: str | None = None
    device: str = MISSING
    software: str = ""
    folds: int = MISSING
    unseen: str | None = None
    out: str | None = None
    log: str | None = None
    profile: str | None = None
    table: str | None = None

    def __post_init__(self) -> None:
        if self.folds != MISSING and self.folds < 2:
            raise InputError(f"folds = {self.folds}: must be at least 2")


class Target(NamedTuple):
    """Something to validate."""

    run: Callable[[ValidateConfig], dict[str, Any]]
    show: Callable[[dict[str, Any]], None]


def validate(config: DictConfig) -> dict[str, Any]:
    """Validates what `what` names."""
    settings = read_config(config, ValidateConfig)
    if settings.what not in TARGETS:
        raise InputError(f"validate {settings.what}: must be one of {', '.join(TARGETS)}")
    return {"what": settings.what, **TARGETS[settings.what].run(settings), **provenance()}


def show(answer: dict[str, Any]) -> None:
    """Prints the errors as tables."""
    TARGETS[answer["what"]].show(answer)


def _kernels(settings: ValidateConfig) -> dict[str, Any]:
    return validate_kernels.validate_kernels(
        settings.data,
        settings.device,
        software=settings.software,
        folds=settings.folds,
        unseen=settings.unseen,
        out=settings.out,
    )


def _engine(settings: ValidateConfig) -> dict[str, Any]:
    if settings.log is None:
        raise InputError("validate engine: log is missing: give log=FOLDER with meta.json, requests.jsonl")
    return validate_engine.validate_engine(settings.log, settings.profile)


def _e2e(settings: ValidateConfig) -> dict[str, Any]:
    if settings.table is None:
        raise InputError("validate e2e: table is missing: give table=FILE, such as silicon_sample.csv")
    return validate_e2e.validate_e2e(settings.table)


TARGETS: dict[str, Target] = {
    "kernels": Target(_kernels, validate_kernels.show),
    "engine": Target(_engine, validate_engine.show),
    "e2e": Target(_e2e, validate_e2e.show),
    "peers": Target(lambda settings: validate_peers.validate_peers(), validate_peers.show),
}
"""What can be validated."""
