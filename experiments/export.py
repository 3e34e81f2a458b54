"""`servegym export`: the trained policy of a run as an artifact that a serving system loads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console

from servegym.agents.learners.families import FAMILIES, family_of
from servegym.agents.serving.export import export_policy
from servegym.agents.serving.schema import FILES
from servegym.costmodels.errors import InputError
from servegym.experiments.configs import read_config
from servegym.experiments.run_directory import load_run_policy


@dataclass
class ExportConfig:
    """Schema of `conf/export.yaml`."""

    run_dir: str = MISSING
    out: str = MISSING


def export(config: DictConfig) -> dict[str, Any]:
    """Writes policy.onnx, policy.json, golden.npz and card.md to `out`, and holds ONNX Runtime to torch.

    InputError where the run is incomplete, saying what is missing, or where `out` holds something.
    """
    settings = read_config(config, ExportConfig)
    run_dir, out = Path(settings.run_dir), Path(settings.out)
    policy, origin = load_run_policy(run_dir)
    level = family_of(origin["network"]).level
    if level is None:
        exported = ", ".join(family.environment for family in FAMILIES if family.level)
        raise InputError(f"run_dir = {run_dir}: is of {origin['network']}; must be of {exported}")
    difference = export_policy(policy.network, level, origin, out)
    return {
        "run_dir": settings.run_dir,
        "out": settings.out,
        "files": list(FILES),
        "num_replicas": policy.network.num_replicas,
        "largest_difference": difference,
    }


def show(answer: dict[str, Any]) -> None:
    """Prints where the artifact is and how well it was reproduced."""
    fleet = answer["num_replicas"] or "any number of"
    console = Console(soft_wrap=True)
    console.print(f"Exported for {fleet} replicas: {answer['out']} ({', '.join(answer['files'])})")
    console.print(
        f"ONNX Runtime reproduces torch: scores differ by {answer['largest_difference']:.1e} at most"
    )
