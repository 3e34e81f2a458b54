"""What a tracker is: something outside the run directory that is told what a run is and how it goes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "failed", "killed"]


@dataclass(frozen=True)
class Subject:
    """The run that is tracked.

    parameters: its configuration, flat, by dotted names. provenance: where it comes from, likewise.
    """

    name: str
    parameters: Mapping[str, Any]
    provenance: Mapping[str, Any]


class Tracker(Protocol):
    """A run as a tracker knows it."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Figures by name, after `step` decisions."""

    def finish(self, outcome: Outcome) -> None:
        """Nothing more will come from this process."""


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted names.

    >>> flat({"agent": {"name": "ppo", "layers": [8, 8]}, "seed": 0})
    {'agent.name': 'ppo', 'agent.layers': [8, 8], 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(
            flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        )
    return found
