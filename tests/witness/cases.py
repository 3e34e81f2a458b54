"""Random workloads for vLLM's scheduler and ours: small, but full of what is hard to get right.

A case is what `vllm_scheduler.py` reads. Between them the cases hold scarce and plentiful KV blocks, prefixes
shared on two levels, prompts that repeat an earlier one word for word, conversations, both policies,
small and large token budgets, few request slots, chunks capped by `long_prefill_token_threshold`, and pauses
in which nothing is left to do.
"""

from typing import TypedDict

import numpy as np


class Settings(TypedDict):
    """The engine; `num_kv_blocks` are usable ones."""

    policy: str
    block_size: int
    num_kv_blocks: int
    max_num_batched_tokens: int
    max_num_seqs: int
    long_prefill_token_threshold: int
    enable_prefix_caching: bool
    scheduler_reserve_full_isl: bool


class RequestCase(TypedDict):
    """One request; it is queued before iteration `arrival_step` is scheduled.

    A follow-up (`parent` >= 0) instead `think_steps` after the iteration that follows its parent's last one;
    its prompt begins with its parent's prompt and output.
    """

    arrival_step: int
    parent: int
    think_steps: int
    priority: int
    prompt: list[int]
    output: list[int]


class Case(TypedDict):
    """An engine and its requests in order of arrival."""

    settings: Settings
    requests: list[RequestCase]


class _Tokens:
    """Token ids that no other text of the case has."""

    def __init__(self) -> None:
        self.next_id = 1

    def take(self, count: int) -> list[int]:
        self.next_id += count
        return list(range(self.next_id - count, self.next_id))


def make_cases(count: int, seed: int) -> list[Case]:
    """`count` cases; case `i` depends on `seed` and `i` alone."""
    return [make_case(np.random.default_rng([seed, index])) for index in range(count)]


def make_case(rng: np.random.Generator) -> Case:
    """One random case."""
    block_size = int(rng.choice([4, 16]))
    requests = _requests(rng, block_size)
    most_blocks = max(kv_blocks(request, block_size) for request in requests)
    scarcity = rng.choice([1.0, 1.2, 1.6, 2.5, 8.0], p=[0.2, 0.25, 0.25, 0.2, 0.1])
    max_num_seqs = int(rng.integers(2, 13))
    budget = int(rng.choice([8, 16, 40, 96, 256])) + int(rng.integers(0, 8))
    settings = Settings(
        policy=str(rng.choice(["fcfs", "priority"])),
        block_size=block_size,
        num_kv_blocks=int(most_blocks * scarcity),
        max_num_batched_tokens=max(budget, max_num_seqs),
        max_num_seqs=max_num_seqs,
        long_prefill_token_threshold=int(rng.integers(1, 5 * block_size)) if rng.random() < 0.5 else 0,
        enable_prefix_caching=bool(rng.random() < 0.85),
        scheduler_reserve_full_isl=bool(rng.random() < 0.75),
    )
    if rng.random() < 0.25:  # chunks of several requests side by side, where blocks lack: many victims
        settings["policy"] = "priority"
        settings["long_prefill_token_threshold"] = int(rng.integers(block_size, 4 * block_size))
        settings["max_num_batched_tokens"] = int(rng.integers(3 * block_size, 8 * block_size)) + max_num_seqs
        settings["num_kv_blocks"] = int(most_blocks * rng.choice([1.0, 1.2, 1.6]))
        settings["enable_prefix_caching"] = True
        settings["scheduler_reserve_full_isl"] = False
    return Case(settings=settings, requests=requests)


def kv_blocks(request: RequestCase, block_size: int) -> int:
    """Blocks that a request holds at its end: its last output token is never written."""
    return -(-(len(request["prompt"]) + len(request["output"]) - 1) // block_size)


def _requests(rng: np.random.Generator, block_size: int) -> list[RequestCase]:
    tokens = _Tokens()
    prompts = _conversations if rng.random() < 0.3 else _shared_prompts
    arrival_steps = _arrival_steps(rng, int(rng.integers(8, 33)))
    outputs = [tokens.take(int(rng.integers(1, 40))) for _ in arrival_steps]
    priorities = rng.integers(4, size=len(arrival_steps))
    if rng.random() < 0.4:
        priorities = -np.sort(priorities)  # the later the more urgent: victims stand in front
    return [
        RequestCase(
            arrival_step=arrival_step,
            parent=parent,
            think_steps=int(rng.integers(4)),
            priority=int(priority),
            prompt=prompt,
            output=output,
        )
        for arrival_step, output, priority, (parent, prompt) in zip(
            arrival_steps, outputs, priorities, prompts(rng, tokens, block_size, outputs), strict=True
        )
    ]


def _shared_prompts(
    rng: np.random.Generator, tokens: _Tokens, block_size: int, outputs: list[list[int]]
) -> list[tuple[int, list[int]]]:
    """Parent (none) and prompt of each request: texts of its own, after a shared prefix, or said before."""
    prefixes = _shared_prefixes(rng, tokens, block_size)
    prompts: list[list[int]] = []
    for _ in outputs:
        kind = rng.choice(["own", "shared", "repeated"], p=[0.2, 0.6, 0.2])
        prompt = _own_text(rng, tokens, block_size)
        if kind == "shared":
            prompt = prefixes[int(rng.integers(len(prefixes)))] + prompt
        elif kind == "repeated" and prompts:
            prompt = prompts[int(rng.integers(len(prompts)))]
        prompts.append(prompt)
    return [(-1, prompt) for prompt in prompts]


def _conversations(
    rng: np.random.Generator, tokens: _Tokens, block_size: int, outputs: list[list[int]]
) -> list[tuple[int, list[int]]]:
    """Parent and prompt of each request: the first turn of a conversation, or the next one of an earlier."""
    turns: list[tuple[int, list[int]]] = []
    latest: list[int] = []  # of each conversation, its last request so far
    for index in range(len(outputs)):
        own = _own_text(rng, tokens, block_size)
        if not latest or rng.random() < 0.4:
            turns.append((-1, own))
            latest.append(index)
            continue
        conversation = int(rng.integers(len(latest)))
        parent = latest[conversation]
        turns.append((parent, turns[parent][1] + outputs[parent] + own))
        latest[conversation] = index
    return turns


def _own_text(rng: np.random.Generator, tokens: _Tokens, block_size: int) -> list[int]:
    """At least one token; often whole blocks, whose last one a repeated prompt must compute again."""
    if rng.random() < 0.4:
        return tokens.take(block_size * int(rng.integers(1, 4)))
    return tokens.take(int(rng.integers(1, 5 * block_size)))


def _shared_prefixes(rng: np.random.Generator, tokens: _Tokens, block_size: int) -> list[list[int]]:
    """A few texts, and longer ones that begin with them; not all of them end with a block."""
    prefixes: list[list[int]] = []
    for _ in range(int(rng.integers(1, 3))):
        root = tokens.take(int(rng.integers(1, 5 * block_size)))
        prefixes.append(root)
        for _ in range(int(rng.integers(0, 3))):
            prefixes.append(root + tokens.take(int(rng.integers(1, 4 * block_size))))
    return prefixes


def _arrival_steps(rng: np.random.Generator, count: int) -> list[int]:
    """Bursts, a steady stream, or a stream with pauses long enough to drain the engine."""
    gaps = rng.geometric(rng.choice([0.9, 0.3, 0.1]), size=count) - 1
    gaps[rng.random(count) < rng.choice([0.0, 0.1])] += 150
    gaps[0] = 0
    return [int(step) for step in np.cumsum(gaps)]
