"""Hashes of the blocks that a prompt begins with: the same in every process; nobody reads a prompt in them.

They are for guessing who has a prompt in its cache. Somebody who knows a text can tell whether it was sent,
and whoever wants to can make two texts collide: then a request goes to a replica that is not the best.
"""

import numpy as np

BLOCK_TOKENS = 64
"""Tokens of a block. Four bytes each: a token's number, or the characters that a token has on average."""

MAX_BLOCKS = 512
"""Blocks of a prompt that are hashed: its first 32,768 tokens."""

BLOCK_BYTES = 4 * BLOCK_TOKENS
HASHED_BYTES = BLOCK_BYTES * MAX_BLOCKS
"""What is beyond them is not looked at."""

_WORDS = BLOCK_BYTES // 8


def _mixed(words: np.ndarray) -> np.ndarray:
    """uint64, each changed in place by the finaliser of SplitMix64 (Steele, Lea, Flood: OOPSLA 2014)."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


_PLACES = _mixed(np.arange(1, MAX_BLOCKS * _WORDS + 1, dtype=np.uint64))
"""A number for each place of a word, so that the same words in another order are other words."""


def prefix_hashes(prompt: bytes) -> tuple[int, ...]:
    """Of each whole block, over it and all blocks before it: 63 bits, since an index wants int64."""
    blocks = min(len(prompt) // BLOCK_BYTES, MAX_BLOCKS)
    if blocks == 0:
        return ()
    words = np.frombuffer(prompt, "<u8", blocks * _WORDS) + _PLACES[: blocks * _WORDS]
    sums: np.ndarray = np.cumsum(_mixed(words))[_WORDS - 1 :: _WORDS]
    return tuple((sums >> np.uint64(1)).tolist())
