"""A request, and a group of them."""

import math
from dataclasses import dataclass, field

FINISHED, REJECTED, UNSERVED = "finished", "rejected", "unserved"


@dataclass(eq=False)
class Request:
    """`outcome` is UNSERVED until it ends."""

    index: int
    arrival_s: float
    prompt: int
    output: int
    out: int = 0  # output tokens so far
    first_token_s: float = math.nan
    finish_s: float = math.nan
    outcome: str = UNSERVED

    @property
    def tokens(self) -> int:
        """n(r): of its prefill."""
        return self.prompt + self.out


@dataclass(eq=False)
class Group:
    """Requests that are computed together, and the instances that do it."""

    number: int
    requests: list[Request] = field(repr=False)
    members: set[int]
    end_s: float | None = None  # of the iteration that runs; None at rest

    @property
    def at_rest(self) -> bool:
        """Runs nothing."""
        return self.end_s is None
