"""The run directory: what a training run leaves behind, and reading it again.

config.yaml      the configuration, complete            provenance.json  code, versions, machine, workload
code.diff        what was not committed of the code     packages.txt     all that was installed
command.txt      the command as typed                   log.txt          when it began, stopped and ended
checkpoints/     to go on from after a kill             training.csv     the training curve
policy.pt        weights of the trained network         tensorboard/     the same for TensorBoard
finished.json    written last: the run is complete      run.lock         held while it is worked on
tracking.json    which run it is in which tracker
"""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from servegym.agents.learners.algorithms import ALGORITHMS, Algorithm
from servegym.agents.learners.families import FAMILIES, Family, family_of
from servegym.agents.networks.action_network import ActionNetwork
from servegym.agents.networks.build import NETWORKS, build_network
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.costmodels.errors import InputError
from servegym.experiments import config_differences
from servegym.experiments.configs import load_config
from servegym.experiments.train_config import TrainConfig

CONFIG_FILE, COMMAND_FILE, PROVENANCE_FILE = "config.yaml", "command.txt", "provenance.json"
CURVE_FILE, POLICY_FILE, FINISHED_FILE = "training.csv", "policy.pt", "finished.json"
TENSORBOARD_FOLDER = "tensorboard"
CODE_FILE, PACKAGES_FILE, LOG_FILE, LOCK_FILE = "code.diff", "packages.txt", "log.txt", "run.lock"

NEEDED = (CONFIG_FILE, PROVENANCE_FILE, POLICY_FILE, FINISHED_FILE)
"""What a finished run must hold for others to use it."""

FIRST = (TENSORBOARD_FOLDER, COMMAND_FILE, PROVENANCE_FILE, CODE_FILE, PACKAGES_FILE, LOCK_FILE)
"""What a run writes before its configuration, which makes the folder its own."""

WRITTEN_WHOLE = (PROVENANCE_FILE, CODE_FILE, PACKAGES_FILE, CONFIG_FILE)
"""Of what a run writes first, the files that are renamed when complete."""

WHEREABOUTS = ("run_dir", "resume", "tracking")
"""Keys that may differ between a run and its continuation, with all below them."""


def missing_files(run_dir: Path) -> list[str]:
    """What a run directory lacks of NEEDED; nothing where the run is finished."""
    return [name for name in NEEDED if not (run_dir / name).is_file()]


def may_begin_in(run_dir: Path) -> bool:
    """Whether a new run may have this folder: it holds nothing, or what a run killed at its start left."""
    left = {*FIRST, *(_partial(Path(name)).name for name in WRITTEN_WHOLE)}
    return not run_dir.exists() or (run_dir.is_dir() and {path.name for path in run_dir.iterdir()} <= left)


def load_run_policy(run_dir: Path) -> tuple[NetworkPolicy, dict[str, Any]]:
    """The trained policy of a finished run, and its provenance (JSON values).

    InputError that says what is missing where the run directory is incomplete.
    """
    _require_finished(run_dir)
    config = load_run_config(run_dir)
    network = load_network(run_dir, config)
    description = json.loads((run_dir / PROVENANCE_FILE).read_text())
    finished = json.loads((run_dir / FINISHED_FILE).read_text())
    return NetworkPolicy(network, name=f"{config.agent.algorithm}_{config.agent.network}"), {
        **description,
        **finished,
    }


def load_run_config(run_dir: Path) -> TrainConfig:
    """The configuration of a run, finished or not. InputError where there is none, or it does not fit."""
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{run_dir} is no run directory: missing {CONFIG_FILE}")
    return load_config(path, TrainConfig, scenario=_family_in(path).schema, agent=_algorithm_in(path).config)


def load_network(run_dir: Path, config: TrainConfig) -> ActionNetwork:
    """The trained network of a run."""
    agent = config.agent
    num_actions = max(map(family_of(agent.network).num_actions, config.scenarios))
    network = build_network(agent.network, num_actions, agent.hidden, agent.layers)
    path = run_dir / POLICY_FILE
    try:
        network.load_state_dict(torch.load(path, weights_only=True))
    except Exception as error:  # torch raises its own types, one for each way a file can be bad
        raise InputError(f"{path}: does not hold the weights of agent.network = {agent.network}") from error
    return network


def save_config(config: TrainConfig, run_dir: Path) -> None:
    """Writes `config.yaml`."""
    write_text(run_dir / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(asdict(config))))


def differing_keys(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Dotted names of what differs between two runs, apart from where they are."""
    before, after = (
        {key: value for key, value in asdict(each).items() if key not in WHEREABOUTS} for each in (old, new)
    )
    return config_differences.differing_keys(before, after, ())


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Holds the folder for this process. InputError where another one holds it."""
    with (run_dir / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"run_dir = {run_dir}: another process is at work in it") from None
        yield


def note(run_dir: Path, text: str) -> None:
    """Adds a line to the log: when, which process on which machine, what."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    with (run_dir / LOG_FILE).open("a") as file:
        file.write(f"{when} process {os.getpid()} on {platform.node()}: {text}\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file that is there as a whole or not at all."""
    partial = _partial(path)
    partial.write_text(text)
    os.replace(partial, path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _require_finished(run_dir: Path) -> None:
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such run directory; make it with servegym train run_dir={run_dir}")
    missing = missing_files(run_dir)
    if missing:
        raise InputError(
            f"{run_dir} is incomplete: missing {', '.join(missing)}; "
            f"finish it with servegym train run_dir={run_dir} resume=true"
        )


def _family_in(path: Path) -> Family:
    """The family of a configuration on disk; any where the file does not say, which its reader refuses."""
    with contextlib.suppress(OmegaConfBaseException, yaml.YAMLError):
        network = OmegaConf.select(OmegaConf.load(path), "agent.network")
        if network in NETWORKS:
            return family_of(network)
    return FAMILIES[0]


def _algorithm_in(path: Path) -> Algorithm:
    """The algorithm of a configuration on disk; PPO where the file does not say, as older ones do not."""
    with contextlib.suppress(OmegaConfBaseException, yaml.YAMLError):
        name = OmegaConf.select(OmegaConf.load(path), "agent.algorithm")
        if name in ALGORITHMS:
            return ALGORITHMS[name]
    return ALGORITHMS["ppo"]
