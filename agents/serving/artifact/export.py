"""Writes a trained network as files that a serving system loads without torch."""

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork
from servegym.agents.networks.normalise import replica_normalisation, request_normalisation
from servegym.agents.serving.artifact.array_archive import write_arrays
from servegym.agents.serving.artifact.card import card
from servegym.agents.serving.artifact.files import describe_files
from servegym.agents.serving.artifact.golden import NUM_GOLDEN, fleet_sizes, golden_observation
from servegym.agents.serving.artifact.load import check_golden, load_artifact
from servegym.agents.serving.artifact.network_arrays import arrays_of, network_description
from servegym.agents.serving.artifact.schema import (
    CARD_FILE,
    DESCRIPTION_FILE,
    FILES,
    GOLDEN_FILE,
    GRAPH_FILE,
    LEVELS,
    REPLICAS,
    SCHEMA_VERSION,
    SIGNATURE_FILE,
    WEIGHTS_FILE,
)
from servegym.agents.serving.artifact.sources import sources
from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import output_folder
from servegym.envs.sim.llm.decision_view import ENGINE_COLUMNS, ROW_COLUMNS
from servegym.envs.sim.llm.view import REPLICA_COLUMNS, REQUEST_COLUMNS, SETTING_COLUMNS

COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "level": (),
    "request": REQUEST_COLUMNS,
    "replicas": REPLICA_COLUMNS,
    "setting": SETTING_COLUMNS,
    "engine": ENGINE_COLUMNS,
    "requests": ROW_COLUMNS,
}
"""Name and unit of each number of an input."""

NORMALISATION: dict[str, Callable[[str], str]] = {
    "request": request_normalisation,
    "replicas": replica_normalisation,
}
"""How a number with a unit enters the network, in words."""


def export_policy(
    network: ActionNetwork, level: str, run_info: dict[str, Any], out_dir: Path, name: str | None = None
) -> float:
    """Writes FILES to `out_dir` and checks them with ONNX Runtime and with NumPy.

    level: of LEVELS, what the network decides. `run_info` is the provenance beside the version of servegym:
    scenario, seed, training steps, results (JSON values). name: what the card calls the policy in commands;
    None: `out_dir`. The folder appears complete or not at all. Returns the largest difference of
    either from torch. InputError where `out_dir` holds something else, an export package is missing, the
    network is not one that can be exported, or they disagree.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed: pip install 'servegym[serving]'")
    about = network_description(network)
    with output_folder(out_dir, (*FILES, SIGNATURE_FILE)) as folder:
        _write_graph(network, level, folder / GRAPH_FILE)
        (folder / WEIGHTS_FILE).write_bytes(write_arrays(arrays_of(network)))
        _write_golden(network, level, folder / GOLDEN_FILE)
        description = _describe(network, level, about, run_info)
        (folder / CARD_FILE).write_text(card(name or str(out_dir), description))
        description["files"] = describe_files(folder)
        (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")
        onnx, numpy = load_artifact(folder, "onnx"), load_artifact(folder, "numpy")
        return max(check_golden(onnx, folder), check_golden(numpy, folder))


class _Scores(nn.Module):
    """The network without its value, which only training needs."""

    def __init__(self, network: ActionNetwork, level: str) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(LEVELS[level].inputs)

    def forward(self, *arrays: Tensor) -> Tensor:
        observation = dict(zip(self.names, arrays, strict=True))
        logits, _ = self.network.scores(self.network.prepare(observation))
        return logits


def _write_graph(network: ActionNetwork, level: str, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=65_536)
    replicas = torch.export.Dim("replicas", min=1, max=65_536)
    # Sizes 0 and 1 are special to torch's tracing, so the example has more of everything.
    example = golden_observation(level, network.num_replicas or 8)
    axes = []
    for name in example:
        of_replicas = LEVELS[level].inputs[name].rows == REPLICAS and network.num_replicas is None
        axes.append({0: batch, 1: replicas} if of_replicas else {0: batch})
    with _quiet():
        program = torch.onnx.export(
            _Scores(network, level).eval(),
            tuple(torch.from_numpy(array) for array in example.values()),
            dynamo=True,
            dynamic_shapes=(tuple(axes),),
            input_names=list(example),
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        # Which lines of which files on this machine a node comes from is nobody's business.
        for node in program.model.graph:
            node.metadata_props.clear()
        program.save(path)


def _describe(
    network: ActionNetwork, level: str, about: dict[str, Any], run_info: dict[str, Any]
) -> dict[str, Any]:
    due, size = LEVELS[level], network.num_replicas or REPLICAS
    actions = [size if each == REPLICAS else each for each in due.actions]
    inputs: dict[str, Any] = {}
    for name, of in due.inputs.items():
        rows = [] if of.rows is None else [size if of.rows == REPLICAS else of.rows]
        inputs[name] = {
            "dtype": "float32",
            "shape": ["batch", *rows, *([len(of.features)] if of.features else [])],
            "features": [_feature(name, column, unit) for column, unit in COLUMNS[name]],
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "level": level,
        "decision": due.decision,
        "inputs": inputs,
        "normalisation": "inside the network: inputs are in raw units",
        "network": about,
        "action": {
            "output": "logits",
            "shape": ["batch", actions[0] if len(actions) == 1 else " + ".join(map(str, actions))],
            "rule": f"the action with the highest logit; {ILLEGAL_LOGIT:g} where illegal",
        },
        "num_replicas": network.num_replicas,
        "provenance": {"servegym": importlib.metadata.version("servegym"), **run_info},
        "golden": {"observations": NUM_GOLDEN, "fleet_sizes": fleet_sizes(level, network.num_replicas)},
    }


def _feature(of: str, name: str, unit: str) -> dict[str, Any]:
    normalisation = {"normalisation": NORMALISATION[of](unit)} if of in NORMALISATION else {}
    return {"name": name, "unit": unit, **normalisation, "sources": sources(f"{of}.{name}")}


def _write_golden(network: ActionNetwork, level: str, path: Path) -> None:
    arrays = {}
    for num_replicas in fleet_sizes(level, network.num_replicas):
        observation = golden_observation(level, num_replicas)
        with torch.no_grad():
            logits = _Scores(network, level)(*(torch.from_numpy(array) for array in observation.values()))
        for name, array in (*observation.items(), ("logits", logits.numpy())):
            arrays[f"{name}_{num_replicas}"] = array
    path.write_bytes(write_arrays(arrays))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress on every channel there is; none of it is news to a user."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
