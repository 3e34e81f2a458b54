"""The folder of a study: whose it is, and who writes there now.

config.yaml      the configuration, complete            requests/     a file per shard (with keep=requests)
command.txt      the commands as typed                  latencies/    likewise, histograms
provenance.json  code, versions, machine, requests      episodes/     likewise, a row of metrics per episode
code.diff        what was not committed of the code     episodes.parquet, latencies.parquet  of all shards
packages.txt     all that was installed                 metrics.json  what came out, written last
study.lock       held while it is worked on
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_file import write_text
from servegym.experiments.config_differences import differing_keys
from servegym.experiments.configs import load_config
from servegym.experiments.provenance import code_diff, installed_packages, provenance, versions
from servegym.experiments.studies.shards import FOLDERS, remove_partial_files
from servegym.experiments.studies.study_config import WHEREABOUTS, StudyConfig

CONFIG_FILE, COMMAND_FILE, PROVENANCE_FILE = "config.yaml", "command.txt", "provenance.json"
EPISODES_FILE, LATENCIES_FILE, METRICS_FILE = "episodes.parquet", "latencies.parquet", "metrics.json"
CODE_FILE, PACKAGES_FILE, LOCK_FILE = "code.diff", "packages.txt", "study.lock"

_FIRST = {
    LOCK_FILE,
    COMMAND_FILE,
    *(CODE_FILE, PACKAGES_FILE, PROVENANCE_FILE),
    *(f".{name}" for name in (CODE_FILE, PACKAGES_FILE, PROVENANCE_FILE, CONFIG_FILE)),
}
"""What is written before the configuration, which makes the folder a study's: files, and parts of files."""

_DECISIVE = ("servegym", "numba", "numpy")
"""Packages another version of which may simulate otherwise."""


def check_folder(out: Path, settings: StudyConfig, source: str) -> None:
    """InputError unless `out` may be made, or holds this very study, as far as it has come.

    source: where the requests come from now. What was simulated by other versions of servegym or of a package
    that results depend on, or on other requests, is another study.
    """
    if not ((out / CONFIG_FILE).is_file() and (out / PROVENANCE_FILE).is_file()):
        if out.exists() and not (
            out.is_dir() and {path.name.partition("-")[0] for path in out.iterdir()} <= _FIRST
        ):
            raise InputError(f"out = {out}: exists and is no study; must be a new folder or a study's")
        return
    begun = asdict(load_config(out / CONFIG_FILE, StudyConfig))
    differing = differing_keys(begun, asdict(settings), WHEREABOUTS)
    description = json.loads((out / PROVENANCE_FILE).read_text())
    differing += differing_keys(_origin(description), _origin(_description(source)), [])
    if differing:
        raise InputError(
            f"out = {out}: holds another study, which differs in {', '.join(differing)}; choose another out, "
            "or remove it"
        )


@contextmanager
def study_folder(out: Path, settings: StudyConfig, source: str, command: str) -> Iterator[None]:
    """Makes the folder at the first start, notes the command, and keeps others from writing there meanwhile.

    InputError where it cannot be written, or another process works on the study.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK_FILE).open("w")
    except OSError as error:
        raise InputError(
            f"out = {out}: cannot be made ({error.strerror}); must be a folder that may be written"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however it ends
        except OSError as error:
            raise InputError(
                f"out = {out}: another servegym study works there; wait for it or end it"
            ) from error
        with (out / COMMAND_FILE).open("a") as file:
            file.write(command + "\n")
        if not (out / CONFIG_FILE).is_file():
            write_text(out / CODE_FILE, code_diff())
            write_text(out / PACKAGES_FILE, installed_packages())
            description = {**_description(source), **provenance()}
            write_text(out / PROVENANCE_FILE, json.dumps(description, indent=2) + "\n")
            write_text(out / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(asdict(settings))))
        for what in FOLDERS:
            (out / what).mkdir(exist_ok=True)
        remove_partial_files(out)
        try:
            yield
        finally:
            remove_partial_files(out)


def _description(source: str) -> dict[str, Any]:
    return {"workload_source": source, "versions": versions()}


def _origin(description: dict[str, Any]) -> dict[str, Any]:
    """What of a description decides on results."""
    decisive = {name: description["versions"].get(name) for name in _DECISIVE}
    return {"workload_source": description["workload_source"], "versions": decisive}
