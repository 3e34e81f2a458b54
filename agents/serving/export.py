"""Writes a trained router network as files that a serving system loads without torch."""

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import ILLEGAL_LOGIT
from servegym.agents.networks.normalise import replica_normalisation, request_normalisation
from servegym.agents.networks.router_network import RouterNetwork
from servegym.agents.serving.artifact import check_golden, load_artifact, sha256
from servegym.agents.serving.golden import FLEET_SIZES, golden_observation
from servegym.agents.serving.schema import (
    DESCRIPTION_FILE,
    FILES,
    GOLDEN_FILE,
    GRAPH_FILE,
    LEVEL,
    SCHEMA_VERSION,
)
from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import output_folder
from servegym.envs.sim.llm.view import REPLICA_COLUMNS, REQUEST_COLUMNS


def export_policy(network: RouterNetwork, run_info: dict[str, Any], out_dir: Path) -> float:
    """Writes policy.onnx, policy.json and golden.npz to `out_dir` and checks them with ONNX Runtime.

    `run_info` is the provenance beside the version of servegym: scenario, seed, training steps, results
    (JSON values). The folder appears complete or not at all. Returns the largest difference between
    ONNX Runtime and torch. InputError where `out_dir` holds something else, an export package is missing, or
    the two disagree.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed: pip install 'servegym[serving]'")
    with output_folder(out_dir, FILES) as folder:
        _write_graph(network, folder / GRAPH_FILE)
        description = _describe(network, run_info, sha256(folder / GRAPH_FILE))
        (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")
        _write_golden(network, folder / GOLDEN_FILE)
        return check_golden(load_artifact(folder), folder)


class _Scores(nn.Module):
    """The network without its value, which only training needs."""

    def __init__(self, network: RouterNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, request: Tensor, replicas: Tensor) -> Tensor:
        logits: Tensor = self.network(request, replicas)[0]
        return logits


def _write_graph(network: RouterNetwork, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=65_536)
    replicas = torch.export.Dim("replicas", min=1, max=65_536)
    request_axes = {0: batch}
    replica_axes = {0: batch} if network.num_replicas is not None else {0: batch, 1: replicas}
    # Sizes 0 and 1 are special to torch's tracing, so the example has more of everything.
    example = golden_observation(network.num_replicas or 8)
    with _quiet():
        program = torch.onnx.export(
            _Scores(network).eval(),
            (torch.from_numpy(example["request"]), torch.from_numpy(example["replicas"])),
            dynamo=True,
            dynamic_shapes=(request_axes, replica_axes),
            input_names=["request", "replicas"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        program.save(path)


def _describe(network: RouterNetwork, run_info: dict[str, Any], graph_sha256: str) -> dict[str, Any]:
    def features(columns: tuple[tuple[str, str], ...], formula: Any) -> list[dict[str, str]]:
        return [{"name": name, "unit": unit, "normalisation": formula(unit)} for name, unit in columns]

    size = network.num_replicas or "replicas"
    return {
        "schema_version": SCHEMA_VERSION,
        "level": LEVEL,
        "inputs": {
            "request": {
                "dtype": "float32",
                "shape": ["batch", len(REQUEST_COLUMNS)],
                "features": features(REQUEST_COLUMNS, request_normalisation),
            },
            "replicas": {
                "dtype": "float32",
                "shape": ["batch", size, len(REPLICA_COLUMNS)],
                "features": features(REPLICA_COLUMNS, replica_normalisation),
            },
        },
        "normalisation": "inside the graph: inputs are in raw units",
        "action": {
            "output": "logits",
            "shape": ["batch", size],
            "rule": f"the replica with the highest logit; {ILLEGAL_LOGIT:g} where available is 0",
        },
        "num_replicas": network.num_replicas,
        "provenance": {"servegym": importlib.metadata.version("servegym"), **run_info},
        "sha256": graph_sha256,
    }


def _write_golden(network: RouterNetwork, path: Path) -> None:
    arrays = {}
    for num_replicas in [network.num_replicas] if network.num_replicas is not None else FLEET_SIZES:
        observation = golden_observation(num_replicas)
        with torch.no_grad():
            logits, _ = network(**{name: torch.from_numpy(array) for name, array in observation.items()})
        for name, array in (*observation.items(), ("logits", logits.numpy())):
            arrays[f"{name}_{num_replicas}"] = array
    np.savez_compressed(path, allow_pickle=False, **arrays)


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
