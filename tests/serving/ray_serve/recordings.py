"""What a test asks of the routers that Serve makes in its process, and the routers it has made."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from servegym.agents.serving.contracts import RouterPolicy
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Decision

if TYPE_CHECKING:
    from tests.serving.ray_serve.recording_router import RecordingRouter


class Decided(NamedTuple):
    """A decision with copies of what it was made of."""

    decision: Decision
    ranked: tuple[str, ...]
    request: RoutedRequest
    features: np.ndarray
    rows: np.ndarray
    names: tuple[str, ...]


@dataclass
class Wanted:
    """A policy with options of Router, or else another configuration than the deployment's."""

    policy: RouterPolicy | None = None
    options: dict[str, Any] = field(default_factory=dict)
    config: str | None = None


made: list["RecordingRouter"] = []
