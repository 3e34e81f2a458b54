"""Read Mooncake's traces, whose prompts say which blocks they share."""

import math
import reprlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.text_files import read_json_lines
from servegym.envs.workloads.workload import MAX_TOKENS, Workload

BLOCK_TOKENS = 512
TICK_S = 3.0


def read_mooncake(path: str | Path, tick_s: float = TICK_S, seed: int = 0) -> Workload:
    """A Mooncake trace: JSON lines with `timestamp` (ms), `input_length`, `output_length`, `hash_ids`.

    `hash_ids` are the prompt's blocks of 512 tokens, and become `prefix_ids`. Equal times in the published
    traces of the Kimi service stand for one tick of the clock, about 3 s: those requests are spread
    uniformly over [t, t + tick_s), at most up to the next time, with `seed`, and keep their order.
    `tick_s` 0 keeps the times as they are. Format and data: https://github.com/kvcache-ai/Mooncake (Qin et
    al., Mooncake, FAST 2025). Raises `InputError` for a bad line, by file, line and value.
    """
    if not 0 <= tick_s < math.inf:
        raise InputError(f"tick_s is {tick_s}, allowed: finite, at least 0")
    lines, times_ms, prompts, outputs, hashes = [], [], [], [], []
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        lines.append(line)
        times_ms.append(_number(where, record, "timestamp"))
        if len(times_ms) > 1 and times_ms[-1] < times_ms[-2]:
            raise InputError(
                f"{where}: timestamp is {times_ms[-1]}, earlier than the request before it, "
                "allowed: ascending times"
            )
        prompts.append(_tokens(where, record, "input_length"))
        outputs.append(_tokens(where, record, "output_length"))
        hashes.append(_hash_ids(where, record, prompts[-1]))
    return Workload(
        name=Path(path).name,
        arrival_s=_spread(np.array(times_ms) / 1000, tick_s, np.random.default_rng(seed)),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        prefix_ids=np.array([block for blocks in hashes for block in blocks], dtype=np.int64),
        prefix_offsets=np.cumsum([0, *map(len, hashes)]),
        prefix_block_tokens=BLOCK_TOKENS,
        source=str(path),
        source_line=np.array(lines),
    )


def _spread(
    times_s: npt.NDArray[np.float64], tick_s: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(N,) ascending times, those of one tick spread over it in order."""
    ticks_s, tick = np.unique(times_s, return_inverse=True)
    widths_s = np.minimum(np.diff(ticks_s, append=np.inf), tick_s)
    uniform = rng.random(len(times_s))
    return np.asarray(times_s + uniform[np.lexsort((uniform, tick))] * widths_s[tick])


def _number(where: str, record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise InputError(f"{where}: {key} is {reprlib.repr(value)}, allowed: a finite number, at least 0")
    return float(value)


def _tokens(where: str, record: dict[str, Any], key: str) -> int:
    value = record.get(key)
    if type(value) is not int or not 1 <= value <= MAX_TOKENS:
        raise InputError(
            f"{where}: {key} is {reprlib.repr(value)}, allowed: a whole number from 1 to {MAX_TOKENS}"
        )
    return value


def _hash_ids(where: str, record: dict[str, Any], prompt_tokens: int) -> list[int]:
    ids = record.get("hash_ids")
    if not isinstance(ids, list) or not all(type(block) is int and 0 <= block < 2**63 for block in ids):
        raise InputError(
            f"{where}: hash_ids is {reprlib.repr(ids)}, allowed: a list of whole numbers, at least 0"
        )
    most = -(-prompt_tokens // BLOCK_TOKENS)
    if len(ids) > most:
        raise InputError(
            f"{where}: hash_ids has {len(ids)} entries for {prompt_tokens} tokens, allowed: at most {most}, "
            f"one a block of {BLOCK_TOKENS} tokens"
        )
    return ids
