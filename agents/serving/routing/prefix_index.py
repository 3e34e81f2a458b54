"""Which replica probably has which prompt prefixes in its KV cache: a router's own guess.

A replica that served a prompt has its blocks until it needs the memory. The router remembers the blocks of
the prompts that it sent to each, the most recently used ones, as routers of SGLang and llm-d do.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


class PrefixIndex:
    """Blocks by hash, at most `max_blocks` for each of `num_replicas` replicas.

    block_tokens: of a block. A hash stands for a block and all blocks before it.
    """

    def __init__(self, num_replicas: int, block_tokens: int, max_blocks: int) -> None:
        self.block_tokens, self.max_blocks = block_tokens, max_blocks
        self._holders: dict[int, int] = {}  # by hash, one bit a replica
        self._blocks: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(num_replicas)]
        self._everyone = (1 << num_replicas) - 1

    def write_hits(self, hashes: Sequence[int], hit_tokens: np.ndarray) -> None:
        """Fills `hit_tokens` (R,): tokens of the prompt that each replica probably has."""
        hit_tokens[:] = 0.0
        holders = self._everyone
        for depth, block in enumerate(hashes):
            remaining = holders & self._holders.get(block, 0)
            if remaining != holders:
                _write(hit_tokens, holders & ~remaining, depth * self.block_tokens)
                holders = remaining
            if not holders:
                return
        _write(hit_tokens, holders, len(hashes) * self.block_tokens)

    def add(self, replica: int, hashes: Sequence[int]) -> None:
        """A prompt of these blocks has been sent to a replica."""
        blocks, bit = self._blocks[replica], 1 << replica
        for block in hashes:
            blocks[block] = None
            blocks.move_to_end(block)
            self._holders[block] = self._holders.get(block, 0) | bit
        while len(blocks) > self.max_blocks:
            self._forget_block(replica, blocks.popitem(last=False)[0])

    def forget(self, replica: int) -> None:
        """A replica has lost its memory, or another one has taken its number."""
        blocks = self._blocks[replica]
        while blocks:
            self._forget_block(replica, blocks.popitem()[0])

    def moved(self, old_numbers: Sequence[int | None]) -> "PrefixIndex":
        """The index of a fleet whose replica i was number `old_numbers[i]` here; None: it is new."""
        index = PrefixIndex(len(old_numbers), self.block_tokens, self.max_blocks)
        for i, old in enumerate(old_numbers):
            if old is not None:
                index.add(i, list(self._blocks[old]))
        return index

    def _forget_block(self, replica: int, block: int) -> None:
        holders = self._holders[block] & ~(1 << replica)
        if holders:
            self._holders[block] = holders
        else:
            del self._holders[block]


def _write(hit_tokens: np.ndarray, replicas: int, tokens: int) -> None:
    while replicas:
        lowest = replicas & -replicas
        hit_tokens[lowest.bit_length() - 1] = tokens
        replicas ^= lowest
