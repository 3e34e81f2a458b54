"""A request, and a batch of them."""

from dataclasses import dataclass, field

GOOD, LATE, DROPPED, UNSERVED = range(4)


@dataclass(eq=False)
class Request:
    """`outcome` is UNSERVED until it ends; `batch` is the one that took it last, if it was not preempted."""

    index: int
    model: int
    arrival_s: float
    deadline_s: float
    outcome: int = UNSERVED
    batch: "Batch | None" = None


@dataclass(eq=False)
class Batch:
    """Requests of one model, from when they are sent to their GPU."""

    model: int
    gpu: int
    requests: list[Request] = field(repr=False)
    sent_s: float
    start_s: float
    end_s: float

    @property
    def size(self) -> int:
        """b."""
        return len(self.requests)
