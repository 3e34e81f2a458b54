"""A request as a router knows it: numbers and hashes, never its text."""

from typing import NamedTuple

from servegym.agents.serving.contracts import UNKNOWN

LARGEST = 1e12
"""Of any number that is believed: float32 has no larger ones by far, and policies no use for them."""


class RoutedRequest(NamedTuple):
    """What is known of a request when it is to be routed.

    request_id: unique among those under way. predicted_output_tokens: 0 where nobody predicts. session: a
    number that the requests of a session share. prefix_hashes: of the blocks that the prompt begins with,
    each hash taken over all blocks up to it (`prefix_index.py`).
    """

    request_id: str
    prompt_tokens: float
    predicted_output_tokens: float = 0.0
    priority: float = 0.0
    session: float = UNKNOWN
    prefix_hashes: tuple[int, ...] = ()


def believable(number: float) -> float:
    """The number; 0 where it is none, is below 0 or beyond `LARGEST`, and would spoil all sums it is in."""
    return number if 0.0 <= number <= LARGEST else 0.0
