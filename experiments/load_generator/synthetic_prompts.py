"""Prompts for the requests of a workload: as long as theirs, alike where their contents are."""

from hashlib import shake_128

import numpy as np

from servegym.envs.workloads import Workload
from servegym.experiments.emulation.prompts import CHARACTERS_PER_TOKEN, Prompt


class SyntheticPrompts:
    """As texts that emulated workers take for the right number of tokens, or as token ids.

    Prompts of equal `prefix_ids` begin alike, and a follow-up begins as the request before it (with filler in
    place of its answer). salt: prompts of another salt have nothing in common with these.
    """

    def __init__(self, workload: Workload, *, as_text: bool, salt: str) -> None:
        self._workload, self._as_text, self._salt = workload, as_text, salt
        self._roots = workload.first_of_chain()

    def __getitem__(self, number: int) -> Prompt:
        """Of one request."""
        workload = self._workload
        left = int(workload.prompt_tokens[number])
        parts = []
        root = self._roots[number]
        if workload.prefix_ids is not None and workload.prefix_offsets is not None:
            root = number
            first, last = workload.prefix_offsets[number : number + 2]
            for content in workload.prefix_ids[first:last].tolist():
                tokens = min(left, workload.prefix_block_tokens)
                parts.append(self._tokens(f"prefix {content}", tokens))
                left -= tokens
        parts.append(self._tokens(f"request {root}", left))
        if self._as_text:
            return b"".join(parts).hex()
        ids: list[int] = np.frombuffer(b"".join(parts), np.uint16).tolist()
        return ids

    def _tokens(self, content: str, count: int) -> bytes:
        """Bytes that look random, two for each token: four hexadecimal digits."""
        return shake_128(f"{self._salt} {content}".encode()).digest(count * CHARACTERS_PER_TOKEN // 2)
