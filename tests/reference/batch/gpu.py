"""A GPU: what it holds, whether it is active, and how long it has been used."""

import math
from dataclasses import dataclass, field
from typing import Literal

from tests.reference.batch.request import Batch


@dataclass(eq=False)
class Gpu:
    """One batch that runs, perhaps one behind it, and the models in its memory."""

    number: int
    state: Literal["active", "starting", "inactive"] = "active"
    active_at: float = math.inf  # while it is starting
    held: list[Batch] = field(default_factory=list)
    last_end_s: float = 0.0  # when all it holds will have ended, or when the last ended
    loaded_s: dict[int, float] = field(default_factory=dict)  # by model in memory: when it is there
    used_at: dict[int, float] = field(default_factory=dict)  # by model: last dispatch
    in_use_since: float | None = None
    used_s: float = 0.0

    @property
    def free_at(self) -> float:
        """When a batch could start on it; inf while it is not active."""
        return self.last_end_s if self.state == "active" else math.inf

    @property
    def has_room(self) -> bool:
        """A batch may be sent to it."""
        return self.state == "active" and len(self.held) < 2

    @property
    def idle(self) -> bool:
        """Active and without a batch."""
        return self.state == "active" and not self.held

    def use(self, now: float) -> None:
        """It counts as used from now on, if it did not already."""
        if self.in_use_since is None:
            self.in_use_since = now

    def release(self, now: float) -> None:
        """It counts as used no longer, if it is inactive and holds nothing."""
        if self.in_use_since is not None and self.state == "inactive" and not self.held:
            self.used_s += now - self.in_use_since
            self.in_use_since = None
