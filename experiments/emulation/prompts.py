"""Prompts as an emulated worker understands them: how many tokens they have, and which KV blocks they share.

A prompt is a list of token ids, or a text, of which every CHARACTERS_PER_TOKEN characters are a token.
"""

import zlib
from hashlib import blake2b

import numpy as np

CHARACTERS_PER_TOKEN = 4

VOCABULARY = 128_000
"""Ids of the tokens of a text are below this."""

Prompt = str | list[int]


def num_tokens(prompt: Prompt) -> int:
    """Tokens of a prompt; the last one of a text may be shorter. An empty prompt has one."""
    count = -(-len(prompt) // CHARACTERS_PER_TOKEN) if isinstance(prompt, str) else len(prompt)
    return max(1, count)


def token_ids(prompt: Prompt) -> list[int]:
    """Its token ids; of a text a number for each token, equal where tokens are."""
    if not isinstance(prompt, str):
        return prompt
    parts = (
        prompt[at : at + CHARACTERS_PER_TOKEN] for at in range(0, max(1, len(prompt)), CHARACTERS_PER_TOKEN)
    )
    return [zlib.crc32(part.encode("utf-8", "surrogatepass")) % VOCABULARY for part in parts]


def block_keys(prompt: Prompt, block_size: int) -> np.ndarray:
    """int64, of each full block of `block_size` tokens: equal where it and all before it are equal.

    A hash over the block and the key before it, as vLLM has them. A text and token ids never share blocks.
    """
    width = block_size * CHARACTERS_PER_TOKEN if isinstance(prompt, str) else block_size
    count = len(prompt) // width
    keys = np.empty(count, np.int64)
    before = b"text" if isinstance(prompt, str) else b"ids"
    for i in range(count):
        part = prompt[i * width : (i + 1) * width]
        content = (
            part.encode("utf-8", "surrogatepass")
            if isinstance(part, str)
            else np.array(part, np.int64).tobytes()
        )
        before = blake2b(before + content, digest_size=8).digest()
        keys[i] = int.from_bytes(before, "little") >> 1  # keys are not negative
    return keys
