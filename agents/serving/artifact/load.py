"""Loads an exported policy and runs it: NumPy, or ONNX Runtime; no torch and no simulator.

What is read is checked before it is used, whoever wrote it (docs/artifact.md).
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from servegym.agents.serving.artifact import description as descriptions
from servegym.agents.serving.artifact.array_archive import read_arrays
from servegym.agents.serving.artifact.files import read_described, read_file
from servegym.agents.serving.artifact.onnx_check import check_graph
from servegym.agents.serving.artifact.schema import (
    CARD_FILE,
    DESCRIPTION_FILE,
    GOLDEN_FILE,
    GRAPH_FILE,
    LEVELS,
    REPLICAS,
    WEIGHTS_FILE,
)
from servegym.agents.serving.artifact.signature import check_signature
from servegym.agents.serving.networks.compiled import CompiledNetwork
from servegym.agents.serving.networks.numpy_network import NumpyNetwork
from servegym.agents.serving.networks.numpy_networks.router_inputs import Weights
from servegym.agents.serving.networks.onnx_network import OnnxNetwork
from servegym.costmodels.errors import InputError

TOLERANCE = 1e-5
"""How far scores may lie from the golden ones, relative to the largest score and at least absolute."""

BACKENDS = ("auto", "onnx", "numpy", "compiled")


Network = OnnxNetwork | NumpyNetwork | CompiledNetwork


class ExportedPolicy:
    """A policy from its files; `description` is the content of `policy.json`, `level` what it decides.

    one, many: what scores a single decision, and what scores many at once. weights: arrays of `policy.npz`.
    """

    name = "exported"

    def __init__(self, description: dict[str, Any], weights: Weights, one: Network, many: Network) -> None:
        self.description, self.weights = description, weights
        self.level = LEVELS[description["level"]]
        self.num_replicas: int | None = description["num_replicas"]
        self._many = many
        self.score_one = one.score_one
        """Scores (actions,) float32 of one decision, in a buffer that the next call overwrites.

        It takes raw float32 arrays by name, as `scores` but without the leading axis; -1e9 where illegal.
        Their shapes are the caller's business: another fleet than the one it is for is a ValueError. For one
        thread at a time.
        """

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
        return self._many.scores(arrays)

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


def load_artifact(directory: Path, backend: str = "auto", key: bytes | None = None) -> ExportedPolicy:
    """The policy in `directory`.

    backend: what runs it. "auto": NumPy for single decisions, which is faster there, and for many at once
    ONNX Runtime if it is installed. "compiled": C, which needs a compiler the first time, and is for networks
    that `networks/c_source.py` knows. key: of the signature, which is then demanded; without it none is
    looked at, nor are other files in the folder. Golden scores are `check_golden`'s.

    InputError, naming the file, where one is missing, unreadable, or not the one described, where the graph
    or the arrays are not such as `servegym export` writes, where the signature is not of this key, where the
    description is of another schema version, level or set of features, or where the backend is unknown, not
    installed, without a compiler, or not for this network.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend = {backend}: must be one of {', '.join(BACKENDS)}")
    path = directory / DESCRIPTION_FILE
    content = read_file(path)
    if key is not None:
        check_signature(directory, content, key)
    description = descriptions.parse(content, path)
    descriptions.check(description, path)
    graph = read_described(directory, GRAPH_FILE, description)
    weights = read_described(directory, WEIGHTS_FILE, description)
    for name in (GOLDEN_FILE, CARD_FILE):
        read_described(directory, name, description)
    level = LEVELS[description["level"]]
    check_graph(graph, level, description["num_replicas"], str(directory / GRAPH_FILE))
    arrays = _weights(weights, description, str(directory / WEIGHTS_FILE))

    if backend == "compiled":
        compiled = CompiledNetwork(description["network"], arrays)
        return ExportedPolicy(description, arrays, compiled, compiled)
    numpy = NumpyNetwork(description["network"], arrays)
    if backend == "numpy" or (backend == "auto" and importlib.util.find_spec("onnxruntime") is None):
        return ExportedPolicy(description, arrays, numpy, numpy)
    onnx = OnnxNetwork(graph, level, str(directory / GRAPH_FILE))
    if backend == "auto":
        return ExportedPolicy(description, arrays, numpy, onnx)
    onnx.open()
    return ExportedPolicy(description, arrays, onnx, onnx)


def check_golden(policy: ExportedPolicy, directory: Path) -> float:
    """Runs the golden inputs on this machine, many at once and one by one; returns the largest difference.

    InputError where it exceeds TOLERANCE, or where the action chosen was not the best within it.
    """
    content = read_described(directory, GOLDEN_FILE, policy.description)
    due_shapes = descriptions.golden_shapes(policy.description)
    golden = read_arrays(content, due_shapes, str(directory / GOLDEN_FILE))
    worst = 0.0
    for size in policy.description["golden"]["fleet_sizes"]:
        due = golden[f"logits_{size}"]
        observation = {name: golden[f"{name}_{size}"] for name in policy.level.inputs}
        each = [{name: array[k] for name, array in observation.items()} for k in range(len(due))]
        one_by_one = np.stack([policy.score_one(one).copy() for one in each])
        legal = due > -1e8
        if not legal.any(axis=1).all():
            raise InputError(f"{directory / GOLDEN_FILE}: logits_{size}: an observation without legal action")
        allowed = TOLERANCE * max(1.0, float(np.abs(due[legal]).max()))
        for scores in (policy.scores(observation), one_by_one):
            difference = float(np.abs(scores - due)[legal].max())
            given_up = due.max(axis=1) - due[np.arange(len(due)), scores.argmax(axis=1)]
            # Written so that a score that is not a number fails too.
            if not (difference <= allowed and float(given_up.max()) <= allowed):
                raise InputError(
                    f"{directory / GOLDEN_FILE}: logits_{size} differs by {difference:g}, allowed is "
                    f"{allowed:g}; this machine does not reproduce the policy"
                )
            worst = max(worst, difference)
    return worst


def _weights(content: bytes, description: dict[str, Any], where: str) -> dict[str, np.ndarray]:
    arrays = read_arrays(content, descriptions.weight_shapes(description), where)
    for name, array in arrays.items():
        positive = name.startswith("constants.") and not name.endswith(".rule")
        right = np.isfinite(array).all() if not name.endswith(".rule") else not np.isnan(array).any()
        if not right or (positive and not (array > 0).all()):
            raise InputError(f"{where}: {name}: must be {'positive and ' if positive else ''}finite numbers")
    return arrays
