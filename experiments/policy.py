"""`servegym policy`: what an exported policy is, whether it can be trusted, how long it takes; signatures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.agents.serving.artifact.description import weight_shapes
from servegym.agents.serving.artifact.files import read_file
from servegym.agents.serving.artifact.load import load_artifact
from servegym.agents.serving.artifact.schema import DESCRIPTION_FILE, MOST_REPLICAS, SIGNATURE_FILE
from servegym.agents.serving.artifact.signature import read_key, sign
from servegym.agents.serving.artifact.sources import SYSTEMS
from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError
from servegym.costmodels.output_file import write_text
from servegym.experiments.configs import read_config

WHAT = ("inspect", "verify", "bench", "sign")

BACKENDS = ("numpy", "onnx", "compiled")


@dataclass
class PolicyConfig:
    """Schema of `conf/policy.yaml`."""

    what: str = MISSING
    policy: str = MISSING
    key: str | None = None
    system: str = "vllm"
    observations: int = 1000
    sizes: list[int] = field(default_factory=lambda: [16, 64, 256])
    decisions: int = 2000
    backends: list[str] = field(default_factory=lambda: ["numpy", "onnx"])

    def __post_init__(self) -> None:
        if self.what != MISSING and self.what not in WHAT:
            raise InputError(f"what = {self.what}: must be one of {', '.join(WHAT)}")
        if self.what == "sign" and self.key is None:
            raise InputError("key: missing; must be a file of at least 32 random bytes to sign with")
        if self.system not in SYSTEMS:
            raise InputError(f"system = {self.system}: must be one of {', '.join(SYSTEMS)}")
        if self.observations < 0:
            raise InputError(f"observations = {self.observations}: must be at least 0")
        if self.decisions < 100:
            raise InputError(f"decisions = {self.decisions}: must be at least 100")
        if not self.sizes or not all(1 <= size <= MOST_REPLICAS for size in self.sizes):
            raise InputError(f"sizes = {self.sizes}: must be fleet sizes from 1 to {MOST_REPLICAS}")
        if not self.backends or not set(self.backends) <= set(BACKENDS):
            raise InputError(f"backends = {self.backends}: must be of {', '.join(BACKENDS)}")


def policy(config: DictConfig) -> dict[str, Any]:
    """Does one of WHAT. InputError where the folder is no exported policy that can be trusted."""
    settings = read_config(config, PolicyConfig)
    folder = policy_folder(settings.policy)
    key = None if settings.key is None else read_key(Path(settings.key))
    answer: dict[str, Any] = {"what": settings.what, "policy": settings.policy}
    if settings.what == "sign":
        assert key is not None
        return answer | {"signature": str(_sign(folder, key))}
    if settings.what == "verify":
        from servegym.experiments.policy_checks import checks

        return answer | {"checks": checks(folder, key, settings.backends, settings.observations)}
    description = load_artifact(folder, "numpy", key).description
    if settings.what == "inspect":
        return answer | _about(description, settings.system)
    from servegym.experiments.policy_times import decision_times

    sizes = _sizes(description, settings.sizes)
    return answer | {"times": decision_times(folder, sizes, settings.decisions, settings.backends)}


def show(answer: dict[str, Any]) -> None:
    """Prints the answer for a person."""
    shown = {"inspect": _show_about, "verify": _show_checks, "bench": _show_times, "sign": _show_signature}
    shown[answer["what"]](answer, Console(soft_wrap=True, highlight=False))


def _sign(folder: Path, key: bytes) -> Path:
    """Writes `policy.sig` of a policy that can be loaded."""
    load_artifact(folder, "numpy")
    path = folder / SIGNATURE_FILE
    write_text(path, sign(read_file(folder / DESCRIPTION_FILE), key))
    return path


def _sizes(description: dict[str, Any], sizes: list[int]) -> list[int]:
    if description["num_replicas"] is not None:
        return [description["num_replicas"]]
    return [1] if description["level"] == "scheduler" else sizes


def _about(description: dict[str, Any], system: str) -> dict[str, Any]:
    inputs = {
        name: [
            {**{key: each.get(key, "") for key in ("name", "unit")}, "source": _source(each, system)}
            for each in of["features"]
        ]
        for name, of in description["inputs"].items()
    }
    num_weights = 0
    for shape in weight_shapes(description).values():
        size = 1
        for length in shape:
            size *= length
        num_weights += size
    return {
        "level": description["level"],
        "decision": description["decision"],
        "num_replicas": description["num_replicas"],
        "network": {**description["network"], "numbers": num_weights},
        "system": system,
        "inputs": inputs,
        "provenance": description["provenance"],
        "files": description["files"],
    }


def _source(feature: dict[str, Any], system: str) -> str:
    sources = feature.get("sources")
    return str(sources.get(system, "")) if isinstance(sources, dict) else ""


def _show_about(answer: dict[str, Any], console: Console) -> None:
    network, provenance = answer["network"], answer["provenance"]
    fleet = answer["num_replicas"] or "any number of"
    console.print(f"{answer['policy']} decides {answer['decision']}, of {fleet} replicas.")
    console.print(
        f"Network: {network['kind']}, {network['layers']} layers of {network['hidden']}, "
        f"{network['numbers']:,} numbers"
    )
    for key in ("command", "scenario", "seed", "steps", "git_commit"):
        if provenance.get(key) is not None:
            console.print(f"{key}: {provenance[key]}", markup=False)
    for name, features in answer["inputs"].items():
        table = Table(title=name, title_justify="left")
        for column in ("feature", "unit", f"source: {answer['system']}"):
            table.add_column(column)
        for each in features:
            table.add_row(each["name"], each["unit"], each["source"])
        if features:
            console.print(table)
    evaluation = provenance.get("evaluation")
    if isinstance(evaluation, dict):
        console.print(f"{evaluation.get('what')} By: {evaluation.get('command')}", markup=False)


def _show_checks(answer: dict[str, Any], console: Console) -> None:
    for name, found in answer["checks"].items():
        console.print(f"ok  {name}: {found}", markup=False)


def _show_times(answer: dict[str, Any], console: Console) -> None:
    table = Table("replicas", "backend", "what", "p50 us", "p99 us")
    for each in answer["times"]:
        figures = [f"{each[name]:.1f}" for name in ("p50_us", "p99_us")]
        table.add_row(str(each["num_replicas"]), each["backend"], each["what"], *figures)
    console.print(table)


def _show_signature(answer: dict[str, Any], console: Console) -> None:
    console.print(f"Signed: {answer['signature']}")
