"""`servegym validate`: how far the simulator and its clock are from what they have not seen."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import MISSING, DictConfig

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_file import output_file
from servegym.envs.workloads import find_data
from servegym.experiments.answer_folder import write_origin
from servegym.experiments.configs import read_config
from servegym.experiments.json_answer import to_json
from servegym.experiments.provenance import provenance
from servegym.experiments.validation import end_to_end, engine, kernels, peers, simulator


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
    clock: str = MISSING
    reference: str | None = None

    def __post_init__(self) -> None:
        if self.folds != MISSING and self.folds < 2:
            raise InputError(f"folds = {self.folds}: must be at least 2")


LOG = "kernels/llmservingsim/bench/examples/RTXPRO6000/Llama-3.1-8B/vllm"
REFERENCE = "../reference/vidur"
TABLE = "kernels/e2e_silicon/silicon_sample.csv.gz"


ANSWER_FILE = "validation.json"


class Target(NamedTuple):
    """Something to validate."""

    run: Callable[[ValidateConfig], dict[str, Any]]
    show: Callable[[dict[str, Any]], None]


def validate(config: DictConfig) -> dict[str, Any]:
    """Validates what `what` names; writes the answer to `out`, if given, beside what else goes there."""
    settings = read_config(config, ValidateConfig)
    if settings.what not in TARGETS:
        raise InputError(f"validate {settings.what}: must be one of {', '.join(TARGETS)}")
    out = None if settings.out is None else Path(settings.out)
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"out = {out}: must be a folder")
    answer = {"what": settings.what, **TARGETS[settings.what].run(settings), **provenance()}
    if out is not None:
        with output_file(out / ANSWER_FILE) as file:
            file.write(f"{to_json(answer)}\n".encode())
        write_origin(out, "validate")
    return answer


def show(answer: dict[str, Any]) -> None:
    """Prints the errors as tables."""
    TARGETS[answer["what"]].show(answer)


def _kernels(settings: ValidateConfig) -> dict[str, Any]:
    return kernels.validate_kernels(
        settings.data,
        settings.device,
        software=settings.software,
        folds=settings.folds,
        unseen=settings.unseen,
        out=settings.out,
    )


def _engine(settings: ValidateConfig) -> dict[str, Any]:
    return engine.validate_engine(settings.log or _shared("log", LOG), settings.profile)


def _e2e(settings: ValidateConfig) -> dict[str, Any]:
    return end_to_end.validate_e2e(settings.table or _shared("table", TABLE), settings.clock, settings.data)


def _simulator(settings: ValidateConfig) -> dict[str, Any]:
    return simulator.validate_simulator(settings.reference or _shared("reference", REFERENCE))


def _shared(key: str, path: str) -> str:
    """The measurements that are validated against unless told otherwise."""
    found = find_data(path)
    if found is None:
        raise InputError(f"{key} is null and {path} is not there: give {key}=PATH, or set SERVEGYM_DATA")
    return str(found)


TARGETS: dict[str, Target] = {
    "kernels": Target(_kernels, kernels.show),
    "engine": Target(_engine, engine.show),
    "e2e": Target(_e2e, end_to_end.show),
    "peers": Target(lambda settings: peers.validate_peers(settings.clock, settings.data), peers.show),
    "simulator": Target(_simulator, simulator.show),
}
"""What can be validated."""
