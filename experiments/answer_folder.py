"""Folders of commands whose result is one answer: it, the command as typed, and where it comes from."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from servegym.costmodels.output_folder import check_replaceable, output_folder
from servegym.experiments.json_answer import plain
from servegym.experiments.provenance import provenance

COMMAND_FILE, PROVENANCE_FILE, CONFIG_FILE = "command.txt", "provenance.json", "config.yaml"
ORIGIN_FILES = (COMMAND_FILE, PROVENANCE_FILE)
"""What `write_origin` writes."""


def typed_command(name: str) -> str:
    """The command as it was typed, if Hydra has read it."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else ["..."]
    return shlex.join(["servegym", name, *words])


def write_origin(folder: Path, name: str) -> None:
    """The files that say how command `name` came to write `folder`."""
    (folder / COMMAND_FILE).write_text(typed_command(name) + "\n")
    (folder / PROVENANCE_FILE).write_text(json.dumps(provenance(), indent=2) + "\n")


def write_json(path: Path, answer: dict[str, Any]) -> None:
    """An answer as strict JSON that people can read."""
    path.write_text(json.dumps(plain(answer), indent=2, allow_nan=False) + "\n")


def check_answer_folder(out: str | None, file_name: str) -> None:
    """InputError unless `out` may be written by `write_answer_folder`; None is no folder."""
    if out is not None:
        check_replaceable(Path(out), (file_name, CONFIG_FILE, *ORIGIN_FILES))


def write_answer_folder(settings: Any, file_name: str, name: str, answer: dict[str, Any]) -> None:
    """The settings (a dataclass) and the answer of command `name` into `settings.out`, which appears whole.

    Nothing where that is None.
    """
    if settings.out is not None:
        with output_folder(Path(settings.out), (file_name, CONFIG_FILE, *ORIGIN_FILES)) as folder:
            write_json(folder / file_name, answer)
            (folder / CONFIG_FILE).write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(settings))))
            write_origin(folder, name)
