"""`policy.json`, read without trust: bounded, and every value that is used later of the type and size due."""

import json
import re
from pathlib import Path
from typing import Any

from servegym.agents.serving.artifact.array_archive import Shapes
from servegym.agents.serving.artifact.schema import (
    CARD_FILE,
    GOLDEN_FILE,
    GRAPH_FILE,
    LEVELS,
    MOST_BYTES,
    MOST_GOLDEN,
    MOST_GOLDEN_FLEETS,
    MOST_HIDDEN,
    MOST_LAYERS,
    MOST_REPLICAS,
    REPLICAS,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
)
from servegym.agents.serving.networks.numpy_network import NETWORKS
from servegym.costmodels.errors import InputError

MOST_DEPTH = 32
"""Of objects and lists in each other."""

# A string without an end is one token too: to look for its end again from each quote in it takes for ever.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def parse(content: bytes, path: Path) -> dict[str, Any]:
    """The object of `policy.json`. InputError for other than such JSON, a name twice, or too deep a one."""
    depth = 0
    for token in _TOKEN.finditer(content):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token.group(), 0)
        if depth > MOST_DEPTH:
            raise InputError(f"{path}: more than {MOST_DEPTH} objects and lists in each other")
    try:
        found = json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {str(error)[:120]}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: must be an object")
    return found


def check(description: dict[str, Any], path: Path) -> None:
    """InputError, naming the key, where it is of another schema version or not what that version is."""
    version = description.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise InputError(f"{path}: schema_version = {version!r:.40}: this servegym reads {SCHEMA_VERSION}")
    level = description.get("level")
    if not isinstance(level, str) or level not in LEVELS:
        raise InputError(f"{path}: level = {level!r:.40}: must be one of {', '.join(LEVELS)}")
    for key, of_type in (("inputs", dict), ("network", dict), ("files", dict), ("golden", dict)):
        _expect(isinstance(description.get(key), of_type), path, key, "an object")
    _expect(isinstance(description.get("provenance"), dict), path, "provenance", "an object")
    _expect(isinstance(description.get("decision"), str), path, "decision", "a sentence")
    _check_network(description, path)
    _check_inputs(description, path)
    _check_golden(description, path)
    files = description["files"]
    for name in (GRAPH_FILE, WEIGHTS_FILE, GOLDEN_FILE, CARD_FILE):
        about = files.get(name)
        _expect(isinstance(about, dict), path, f"files.{name}", "an object")
        _whole(about.get("bytes"), 0, MOST_BYTES[name], path, f"files.{name}.bytes")
        digest = about.get("sha256")
        right = isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None
        _expect(right, path, f"files.{name}.sha256", "64 hexadecimal digits")


def weight_shapes(description: dict[str, Any]) -> Shapes:
    """The arrays of `policy.npz` that a checked description promises."""
    network = description["network"]
    fleet = description["num_replicas"] or 0
    return NETWORKS[network["kind"]].shapes(network["hidden"], network["layers"], fleet)


def golden_shapes(description: dict[str, Any]) -> Shapes:
    """The arrays of `golden.npz` that a checked description promises."""
    level, golden = LEVELS[description["level"]], description["golden"]
    count, shapes = golden["observations"], {}
    for fleet in golden["fleet_sizes"]:
        for name, of in level.inputs.items():
            shapes[f"{name}_{fleet}"] = of.shape(count, fleet)
        shapes[f"logits_{fleet}"] = (count, level.num_actions(fleet))
    return shapes


def _check_network(description: dict[str, Any], path: Path) -> None:
    network, level = description["network"], description["level"]
    kinds = [name for name, kind in NETWORKS.items() if kind.level == level]
    kind = network.get("kind")
    _expect(isinstance(kind, str) and kind in kinds, path, "network.kind", f"one of {', '.join(kinds)}")
    _whole(network.get("hidden"), 1, MOST_HIDDEN, path, "network.hidden")
    _whole(network.get("layers"), 1, MOST_LAYERS, path, "network.layers")
    if kind == "attention":
        _expect(network["hidden"] % 4 == 0, path, "network.hidden", "a multiple of 4")
    if NETWORKS[kind].fixed:
        _whole(description.get("num_replicas"), 1, MOST_REPLICAS, path, "num_replicas")
    else:
        _expect("num_replicas" in description, path, "num_replicas", "null")
        _expect(description["num_replicas"] is None, path, "num_replicas", "null")


def _check_inputs(description: dict[str, Any], path: Path) -> None:
    inputs, due = description["inputs"], LEVELS[description["level"]].inputs
    _expect(set(inputs) == set(due), path, "inputs", f"{', '.join(due)}")
    fleet = description["num_replicas"] or REPLICAS
    for name, of in due.items():
        about = inputs[name]
        _expect(isinstance(about, dict), path, f"inputs.{name}", "an object")
        features = about.get("features")
        right = isinstance(features, list) and all(isinstance(each, dict) for each in features)
        _expect(right, path, f"inputs.{name}.features", "a list of objects")
        found = tuple(str(each.get("name")) for each in features)
        if found != of.features:
            shown, wanted = ", ".join(found), ", ".join(of.features)
            raise InputError(f"{path}: features of {name} are {shown:.400}; must be {wanted}")
        _expect(about.get("dtype") == "float32", path, f"inputs.{name}.dtype", "float32")
        rows = [] if of.rows is None else [fleet if of.rows == REPLICAS else of.rows]
        shape = ["batch", *rows, *([len(of.features)] if of.features else [])]
        _expect(about.get("shape") == shape, path, f"inputs.{name}.shape", str(shape))


def _check_golden(description: dict[str, Any], path: Path) -> None:
    golden, fixed = description["golden"], description["num_replicas"]
    _whole(golden.get("observations"), 1, MOST_GOLDEN, path, "golden.observations")
    sizes = golden.get("fleet_sizes")
    right = isinstance(sizes, list) and 1 <= len(sizes) <= MOST_GOLDEN_FLEETS
    _expect(right, path, "golden.fleet_sizes", f"a list of 1 to {MOST_GOLDEN_FLEETS} numbers")
    for size in sizes:
        _whole(size, fixed or 1, fixed or MOST_REPLICAS, path, "golden.fleet_sizes")
    _expect(len(set(sizes)) == len(sizes), path, "golden.fleet_sizes", "different numbers")


def _whole(value: Any, least: int, most: int, path: Path, key: str) -> None:
    right = type(value) is int and least <= value <= most
    _expect(right, path, key, f"a whole number from {least} to {most}")


def _expect(right: bool, path: Path, key: str, allowed: str) -> None:
    if not right:
        raise InputError(f"{path}: {key} is missing or malformed: must be {allowed}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
