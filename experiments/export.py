"""`servegym export`: the trained policy of a run as an artifact that a serving system loads."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console

from servegym.agents.learners.families import FAMILIES, family_of
from servegym.agents.networks.build import MIXTURES
from servegym.agents.serving.artifact.export import export_policy
from servegym.agents.serving.artifact.schema import FILES
from servegym.agents.zoo import PREFIX, ZOO
from servegym.costmodels.errors import InputError
from servegym.experiments.configs import read_config
from servegym.experiments.evaluation.quoted import quote
from servegym.experiments.run_directory import COMMAND_FILE, load_run_config, load_run_policy


@dataclass
class ExportConfig:
    """Schema of `conf/export.yaml`."""

    run_dir: str = MISSING
    out: str | None = None
    zoo: str | None = None
    evaluation: str | None = None

    def __post_init__(self) -> None:
        if self.zoo is not None and not re.fullmatch(r"[a-z0-9_]+", self.zoo):
            raise InputError(f"zoo = {self.zoo}: must be a name of small letters, digits and underscores")
        if self.zoo is not None and self.out is not None:
            raise InputError(f"out = {self.out}: must not be given with zoo={self.zoo}, which has its place")


def export(config: DictConfig) -> dict[str, Any]:
    """Writes policy.onnx, policy.npz, policy.json, golden.npz and card.md to `out`, held to torch.

    With `zoo` they become the policy `zoo:NAME` of this installation. `evaluation`: a folder that `servegym
    evaluate suite=...` wrote about the run or the exported policy, which the card quotes. InputError where
    the run is incomplete, saying what is missing, or where `out` holds something.
    """
    settings = read_config(config, ExportConfig)
    run_dir = Path(settings.run_dir)
    policy, origin = load_run_policy(run_dir)
    level = family_of(origin["network"]).level
    if level is None:
        exported = ", ".join(family.environment for family in FAMILIES if family.level)
        raise InputError(f"run_dir = {run_dir}: is of {origin['network']}; must be of {exported}")
    if origin["network"] in MIXTURES:
        raise InputError(f"run_dir = {run_dir}: is of {origin['network']}, which needs the routers it mixes")
    if settings.zoo is None:
        out = Path(settings.out) if settings.out else run_dir / "export"
        name = str(out)
    else:
        out, name = ZOO / settings.zoo, PREFIX + settings.zoo
    info = {**origin, "command": _command(run_dir), "suite": _suite(run_dir)}
    if settings.evaluation is not None:
        info["evaluation"] = quote(Path(settings.evaluation), name, settings.run_dir)
    difference = export_policy(policy.network, level, info, out, name)
    return {
        "run_dir": settings.run_dir,
        "out": str(out),
        "name": name,
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


def _command(run_dir: Path) -> str:
    """The command that began the run, without where it wrote."""
    path = run_dir / COMMAND_FILE
    words = shlex.split(path.read_text().splitlines()[0]) if path.is_file() else []
    return shlex.join(word for word in words if not word.startswith("run_dir="))


def _suite(run_dir: Path) -> dict[str, Any] | None:
    """Which suite a run was trained on, and on which of its entries."""
    suite = load_run_config(run_dir).suite
    if suite is None:
        return None
    kept = [name for name in suite.entries if name not in suite.training]
    return {"name": suite.name, "version": suite.version, "trained_on": suite.training, "test_only": kept}
