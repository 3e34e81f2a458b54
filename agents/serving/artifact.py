"""Loads an exported policy and runs it: ONNX Runtime and NumPy, no torch and no simulator."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from servegym.agents.serving.onnx_network import OnnxNetwork
from servegym.agents.serving.schema import (
    DESCRIPTION_FILE,
    FILES,
    GOLDEN_FILE,
    GRAPH_FILE,
    LEVELS,
    REPLICAS,
    SCHEMA_VERSION,
)
from servegym.costmodels.errors import InputError

TOLERANCE = 1e-5
"""How far scores may lie from the golden ones, relative to the largest score and at least absolute."""


class ExportedPolicy:
    """A policy from its files; `description` is the content of `policy.json`, `level` what it decides."""

    name = "exported"

    def __init__(self, graph: Path, description: dict[str, Any]) -> None:
        self.description = description
        self.level = LEVELS[description["level"]]
        self.num_replicas: int | None = description["num_replicas"]
        self._network = OnnxNetwork(graph.read_bytes(), self.level, str(graph))

    def reset(self, num_episodes: int, seed: int) -> None:
        """Nothing to do: the policy has no memory and draws nothing."""

    def scores(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Raw arrays by name, with a leading axis K, to scores (K, actions) float32; -1e9 where illegal.

        InputError for missing arrays, for other shapes, or for another fleet than the one it is for.
        """
        arrays = {
            name: np.ascontiguousarray(observation[name], np.float32)
            for name in self.level.inputs
            if name in observation
        }
        self._check_shapes({name: array.shape for name, array in arrays.items()})
        return self._network.scores(arrays)

    def score_one(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (actions,) float32 of one decision: raw arrays by name without the leading axis of `scores`.

        The answer is a view that the next call overwrites. Shapes are the caller's business here: other than
        the due ones raise ValueError or KeyError.
        """
        return self._network.score_one(observation)

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """The action with the highest score for each of K observations, int64 (K,)."""
        return np.asarray(self.scores(observation).argmax(axis=1), dtype=np.int64)

    def _check_shapes(self, found: dict[str, tuple[int, ...]]) -> None:
        tables = [name for name, of in self.level.inputs.items() if of.rows == REPLICAS]
        seen = [size for name in tables for size in found.get(name, ())[1:2]]
        num_replicas = self.num_replicas or next(iter(seen), 1)
        count = next(iter(found.values()), (0,))[0]
        due = {name: of.shape(count, num_replicas) for name, of in self.level.inputs.items()}
        if found != due:
            words = (f"{name} {shape}" for name, shape in found.items())
            wanted = (
                f"{name} ({', '.join(map(str, ('K', *each['shape'][1:])))})"
                for name, each in self.description["inputs"].items()
            )
            raise InputError(
                f"observation of shapes {' and '.join(words)}: this policy takes {' and '.join(wanted)}"
            )


def load_artifact(directory: Path) -> ExportedPolicy:
    """The policy in `directory`.

    InputError, naming the file, where one is missing or unreadable, where the graph is not the one
    described, or where the description is of another schema version, level or set of features.
    """
    for name in FILES:
        if not (directory / name).is_file():
            raise InputError(f"{directory / name}: missing; an exported policy is {', '.join(FILES)}")
    path = directory / DESCRIPTION_FILE
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    _check_description(description, path)
    if sha256(directory / GRAPH_FILE) != description["sha256"]:
        raise InputError(
            f"{directory / GRAPH_FILE}: sha256 differs from the one in {DESCRIPTION_FILE}; export again"
        )
    return ExportedPolicy(directory / GRAPH_FILE, description)


def check_golden(policy: ExportedPolicy, directory: Path) -> float:
    """Runs the golden inputs on this machine; returns the largest difference of a score.

    InputError where it exceeds TOLERANCE, or where the action chosen was not the best within it.
    """
    golden = np.load(directory / GOLDEN_FILE)
    worst = 0.0
    for key in (name for name in golden.files if name.startswith("logits_")):
        due, fleet_size = golden[key], key.removeprefix("logits_")
        observation = {name: golden[f"{name}_{fleet_size}"] for name in policy.level.inputs}
        scores = policy.scores(observation)
        legal = due > -1e8
        allowed = TOLERANCE * max(1.0, float(np.abs(due[legal]).max()))
        difference = float(np.abs(scores - due)[legal].max())
        given_up = due.max(axis=1) - due[np.arange(len(due)), scores.argmax(axis=1)]
        # Written so that a score that is not a number fails too.
        if not (difference <= allowed and float(given_up.max()) <= allowed):
            raise InputError(
                f"{directory / GOLDEN_FILE}: {key} differs by {difference:g}, allowed is {allowed:g}; "
                "this ONNX Runtime does not reproduce the policy"
            )
        worst = max(worst, difference)
    return worst


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_description(description: Any, path: Path) -> None:
    if not isinstance(description, dict) or description.get("schema_version") != SCHEMA_VERSION:
        found = description.get("schema_version") if isinstance(description, dict) else None
        raise InputError(f"{path}: schema_version = {found!r}: this servegym reads {SCHEMA_VERSION}")
    if description.get("level") not in LEVELS:
        raise InputError(f"{path}: level = {description.get('level')!r}: must be one of {', '.join(LEVELS)}")
    try:
        for name, of in LEVELS[description["level"]].inputs.items():
            found = tuple(feature["name"] for feature in description["inputs"][name]["features"])
            if found != of.features:
                raise InputError(
                    f"{path}: features of {name} are {', '.join(found)}; must be {', '.join(of.features)}"
                )
        fixed = description["num_replicas"]
        if not (fixed is None or isinstance(fixed, int)) or not isinstance(description["sha256"], str):
            raise TypeError("num_replicas and sha256")
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: incomplete or malformed at {error}; export again") from error
