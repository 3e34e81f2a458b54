"""What the router has sent: the columns of "What a router sees" on what it does not see yet."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(eq=False)
class Sending:
    """A request that the router has sent to a replica."""

    replica: int
    prefill_tokens: int
    on_way: bool = True


class Roads(NamedTuple):
    """An instant: how many sendings there had been, and which of them were on their way."""

    num_sent: int
    on_way: list[Sending]


class Sendings:
    """Everything the router has sent so far."""

    def __init__(self) -> None:
        self.sent: list[Sending] = []

    def now(self) -> Roads:
        return Roads(len(self.sent), [sending for sending in self.sent if sending.on_way])

    def unseen(self, seen: Roads, replica: int) -> tuple[int, int]:
        """Requests and prefill tokens that the state of an instant does not hold."""
        missing = [s for s in seen.on_way + self.sent[seen.num_sent :] if s.replica == replica]
        return len(missing), sum(s.prefill_tokens for s in missing)
