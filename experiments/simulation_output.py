"""What `servegym simulate` writes and prints of any kind of scenario, beside its tables of requests."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from servegym.experiments.json_answer import to_json
from servegym.experiments.provenance import provenance

METRICS_FILE, CONFIG_FILE = "metrics.json", "config.yaml"
COMMAND_FILE, PROVENANCE_FILE = "command.txt", "provenance.json"

ANSWER_FILES = (METRICS_FILE, CONFIG_FILE, COMMAND_FILE, PROVENANCE_FILE)
"""What `write_answer` writes."""


def write_answer(folder: Path, settings: Any, answer: dict[str, Any]) -> None:
    """ANSWER_FILES into `folder`; the settings are a dataclass."""
    words = HydraConfig.get().overrides.task
    (folder / COMMAND_FILE).write_text(f"servegym simulate {' '.join(map(shlex.quote, words))}\n")
    (folder / PROVENANCE_FILE).write_text(json.dumps(provenance(), indent=2) + "\n")
    (folder / CONFIG_FILE).write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(settings))))
    metrics = json.dumps(json.loads(to_json(answer)), indent=2)
    (folder / METRICS_FILE).write_text(metrics + "\n")


def show_metrics(answer: dict[str, Any], policy: str) -> None:
    """Prints the metrics as a table, under the name of the policy."""
    table = Table(title=f"{policy} on {answer['scenario']}, seed {answer['seed']}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in answer["metrics"].items():
        table.add_row(name, f"{value:,.0f}" if name.startswith("num_") else f"{value:,.4g}")
    console = Console()
    console.print(table)
    console.print(f"Requests: {answer['workload_source']}. Written: {answer['out']}", soft_wrap=True)
