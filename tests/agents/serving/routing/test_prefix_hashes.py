"""Two prompts have as many hashes in common as blocks they both begin with."""

import subprocess
import sys

import numpy as np

from servegym.agents.serving.routing.prefix_hashes import BLOCK_BYTES, HASHED_BYTES, MAX_BLOCKS, prefix_hashes


def _in_common(first: bytes, second: bytes) -> int:
    pairs = zip(prefix_hashes(first), prefix_hashes(second), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)) // BLOCK_BYTES)


def test_common_prefixes_are_common_hashes_and_nothing_after_them_is() -> None:
    rng = np.random.default_rng(0)
    text = rng.bytes(10 * BLOCK_BYTES + 7)
    for at in (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 5 * BLOCK_BYTES + 100, 10 * BLOCK_BYTES - 1):
        other = bytearray(text)
        other[at] ^= 1 << int(rng.integers(8))
        assert _in_common(text, bytes(other)) == at // BLOCK_BYTES
        assert not set(prefix_hashes(text)[at // BLOCK_BYTES :]) & set(prefix_hashes(bytes(other)))
    assert prefix_hashes(text) == prefix_hashes(text[: 10 * BLOCK_BYTES])
    assert prefix_hashes(text[: BLOCK_BYTES - 1]) == ()


def test_the_same_blocks_or_words_in_another_order_are_another_prompt() -> None:
    first, second = b"a" * BLOCK_BYTES, b"b" * BLOCK_BYTES
    assert prefix_hashes(first + second)[1] != prefix_hashes(second + first)[1]
    assert prefix_hashes(b"a" * 8 + b"b" * 8 + first) != prefix_hashes(b"b" * 8 + b"a" * 8 + first)
    assert len(set(prefix_hashes(first * 100))) == 100


def test_no_two_of_many_similar_prompts_collide() -> None:
    """Texts that differ in the case of two letters: what a sum of products would confuse."""
    hashes = {
        prefix_hashes(bytes(_upper(b"servegym" * 32, (i, j))))[0] for i in range(256) for j in range(i, 256)
    }
    assert len(hashes) == 256 * 257 // 2 - 256 + 1  # i = j changes a letter there and back
    assert all(0 <= each < 2**63 for each in hashes)


def _upper(text: bytes, places: tuple[int, int]) -> bytearray:
    changed = bytearray(text)
    for place in places:
        changed[place] ^= 0x20
    return changed


def test_only_the_beginning_is_hashed() -> None:
    text = np.random.default_rng(1).bytes(HASHED_BYTES)
    assert len(prefix_hashes(text)) == MAX_BLOCKS
    assert prefix_hashes(text + b"x" * 5000) == prefix_hashes(text)


def test_another_process_has_the_same_hashes() -> None:
    module = "servegym.agents.serving.routing.prefix_hashes"
    code = f"from {module} import prefix_hashes; print(prefix_hashes(b'ab' * 200))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    }
    assert answers == {f"{prefix_hashes(b'ab' * 200)}\n".encode()}
