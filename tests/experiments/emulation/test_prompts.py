"""How many tokens prompts have, and which blocks they share."""

import numpy as np
import pytest

from servegym.envs.workloads import Workload
from servegym.experiments.emulation.prompts import block_keys, num_tokens, token_ids
from servegym.experiments.load_generator.synthetic_prompts import SyntheticPrompts


@pytest.mark.parametrize(
    ("prompt", "tokens"), [("", 1), ("a", 1), ("abcd", 1), ("abcde", 2), ([], 1), ([7] * 9, 9)]
)
def test_numbers_of_tokens(prompt: str | list[int], tokens: int) -> None:
    assert num_tokens(prompt) == tokens


def test_equal_tokens_have_equal_ids() -> None:
    first, second, third = token_ids("abcdabcdé")
    assert first == second != third


@pytest.mark.parametrize("as_text", [True, False])
def test_blocks_are_shared_up_to_the_first_difference(as_text: bool) -> None:
    text = "".join(f"{i:04}" for i in range(40))
    other = text[:80] + "!" + text[81:]
    prompt, changed = (text, other) if as_text else ([*range(40)], [*range(20), -1, *range(21, 40)])
    keys, other_keys = block_keys(prompt, 8), block_keys(changed, 8)
    assert len(keys) == 5 and len(set(keys.tolist())) == 5 and keys.min() >= 0
    assert (keys == other_keys).tolist() == [True, True, False, False, False]
    assert block_keys(prompt[: len(prompt) // 2], 8).tolist() == keys[:2].tolist()


def test_a_text_shares_nothing_with_token_ids() -> None:
    text = block_keys("\x00" * 64 * 4, 8)
    assert not set(text.tolist()) & set(block_keys([0] * 64, 8).tolist())


WORKLOAD = Workload(
    name="four",
    arrival_s=np.arange(4.0),
    prompt_tokens=np.array([100, 70, 40, 200]),
    output_tokens=np.ones(4, int),
    prefix_ids=np.array([5, 6, 5, 6, 8]),
    prefix_offsets=np.array([0, 2, 4, 4, 5]),
    prefix_block_tokens=32,
)


@pytest.mark.parametrize("as_text", [True, False])
def test_synthetic_prompts_are_as_long_and_as_alike_as_the_workload_says(as_text: bool) -> None:
    prompts = SyntheticPrompts(WORKLOAD, as_text=as_text, salt="a")
    assert [num_tokens(prompts[i]) for i in range(4)] == [100, 70, 40, 200]
    keys = [block_keys(prompts[i], 16).tolist() for i in range(4)]
    assert keys[0][:4] == keys[1][:4]
    assert len({key for each in keys for key in each}) == sum(map(len, keys)) - 4
    again = SyntheticPrompts(WORKLOAD, as_text=as_text, salt="a")
    assert again[0] == prompts[0]
    salted = SyntheticPrompts(WORKLOAD, as_text=as_text, salt="b")
    assert not set(block_keys(salted[0], 16).tolist()) & set(keys[0])


def test_a_follow_up_begins_as_the_request_before_it() -> None:
    sessions = Workload(
        name="sessions",
        arrival_s=np.arange(3.0),
        prompt_tokens=np.array([100, 50, 200]),
        output_tokens=np.ones(3, int),
        parent=np.array([-1, -1, 0]),
        think_s=np.zeros(3),
    )
    first, other, follow_up = (SyntheticPrompts(sessions, as_text=True, salt="")[i] for i in range(3))
    assert isinstance(first, str) and isinstance(follow_up, str) and isinstance(other, str)
    assert follow_up.startswith(first)
    assert not follow_up.startswith(other[:16])
