"""The KV blocks of one replica, one object each, and the prefix cache over them."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(eq=False)
class Block:
    """One physical KV block: what is in it, and how many requests hold it."""

    content: Hashable | None = None  # identity of a full block and of all before it; None: blank
    holders: int = 0


class BlockPool:
    """Blocks, the queue of free ones, and which blocks carry which content ("Prefix cache")."""

    def __init__(self, num_blocks: int, sharing: bool) -> None:
        self.num_blocks = num_blocks
        self.sharing = sharing
        self.clear()

    def clear(self) -> None:
        """All blocks blank and free."""
        self.blocks = [Block() for _ in range(self.num_blocks)]
        self.free = list(self.blocks)  # the next one to be taken stands in front
        self.cached: dict[Hashable, list[Block]] = {}  # blocks of equal content, the oldest first

    @property
    def used(self) -> int:
        return self.num_blocks - len(self.free)

    def lookup(self, contents: Sequence[Hashable]) -> list[Block]:
        """The blocks of the longest run of cached contents from the first; changes nothing."""
        hits = []
        for content in contents:
            if content not in self.cached:
                break
            hits.append(self.cached[content][0])
        return hits

    def hold(self, hits: Sequence[Block]) -> None:
        """One more request holds these blocks; free ones leave the queue."""
        for block in hits:
            if block.holders == 0:
                self.free.remove(block)
            block.holders += 1

    def take(self, number: int) -> list[Block]:
        """So many blocks from the front of the queue; cached ones lose their content."""
        assert number <= len(self.free), f"{number} blocks wanted, {len(self.free)} free"
        taken = [self.free.pop(0) for _ in range(number)]
        for block in taken:
            if block.content is not None:
                self.cached[block.content].remove(block)
                if not self.cached[block.content]:
                    del self.cached[block.content]
                block.content = None
            block.holders = 1
        return taken

    def publish(self, table: Sequence[Block], contents: Sequence[Hashable]) -> None:
        """The first blocks of `table` are full and have these contents: they can be hit from now on."""
        for block, content in zip(table, contents, strict=False):
            if block.content is None:
                block.content = content
                self.cached.setdefault(content, []).append(block)

    def give_back(self, table: Sequence[Block]) -> None:
        """A request no longer holds these blocks, which are in its order."""
        blank, full = [], []
        for block in reversed(table):
            block.holders -= 1
            if block.holders == 0:
                (blank if block.content is None else full).append(block)
        self.free = blank + self.free + full
