"""The picture of both levels: the fleet on the left, on the right the engine whose decision is due."""

from collections.abc import Sequence
from typing import Any

from servegym.envs.batching.viewer import EnginePart
from servegym.envs.routing.viewer import FleetPart
from servegym.envs.viewer import History, Part


def lay_out(figure: Any, num_replicas: int) -> Sequence[Part]:
    """Parts that take a FleetSnapshot, an EngineSnapshot and what `History` takes."""
    left = figure.add_gridspec(
        3, 1, height_ratios=(3.2, 1.7, 1.3), left=0.065, right=0.445, top=0.79, bottom=0.035, hspace=0.5
    )
    requests, kv, past = (figure.add_subplot(cell) for cell in left)
    right = figure.add_gridspec(
        2, 1, height_ratios=(3.9, 1.1), left=0.53, right=0.975, top=0.79, bottom=0.035, hspace=0.32
    )
    queue = figure.add_subplot(right[0])
    limits = figure.add_subplot(right[1].subgridspec(1, 2, width_ratios=(0.7, 0.3), wspace=0)[0])
    return FleetPart(requests, kv, num_replicas), EnginePart(queue, limits), History(past)
