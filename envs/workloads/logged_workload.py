"""The requests that a router in a real serving system has logged, as a workload."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.decision_log import (
    UNKNOWN_TOKENS,
    DecisionLogContents,
    LoggedDecision,
    read_decision_log,
)
from servegym.envs.workloads.workload import MAX_TOKENS, Workload

MAX_PRIORITY = 2**31 - 1


def read_decisions(path: str | Path) -> Workload:
    """The requests of a log that were served to their end, as they came; see `as_workload`."""
    return as_workload(read_decision_log(path), path)


def as_workload(log: DecisionLogContents, path: str | Path) -> Workload:
    """The requests that were served to their end, with the tokens that came back.

    The first arrives at 0. Those that were refused, failed, or were under way when the log ended are not
    among them, nor are those whose tokens the router did not see: their lengths are not known. Priorities are
    rounded. Sessions and predictions are there where the log has any; a request that belongs to no session is
    one by itself, predictions must be of all.

    InputError where nobody was served, or where the lengths of more than half of these are not known.
    """
    outcomes = [each.ended for each in log.decisions if each.ended and each.ended.ok]
    num_unknown = sum(each.output_tokens == UNKNOWN_TOKENS for each in outcomes)
    if 2 * num_unknown > len(outcomes):
        raise InputError(
            f"{path}: output_tokens are unknown of {num_unknown} of the {len(outcomes)} requests served, "
            "allowed: of half of them; the router must see answers (endpoint picker: --observed tokens)"
        )
    served = [each for each in log.decisions if each.ended and each.ended.ok and each.ended.output_tokens > 0]
    if not served:
        raise InputError(f"{path}: none of {len(log.decisions)} requests was served to its end, must be one")
    served.sort(key=lambda each: each.arrived_s)
    part = replace(log, decisions=served)
    prompts = np.clip(np.rint(part.column("prompt_tokens")), 1, MAX_TOKENS).astype(np.int32)
    columns: dict[str, Any] = {}
    predictions = np.rint(part.column("predicted_output_tokens"))
    if (predictions >= 1).all():
        columns["predicted_output_tokens"] = np.minimum(predictions, MAX_TOKENS).astype(np.int32)
    priorities = np.clip(np.rint(part.column("priority")), -MAX_PRIORITY, MAX_PRIORITY)
    if priorities.any():
        columns["priority"] = priorities.astype(np.int32)
    if any(each.session >= 0 for each in served):
        columns["session_id"] = _session_ids(served)
    if any(each.prefixes for each in served):
        columns |= _prefixes(served, prompts, log.prefix_block_tokens)
    return Workload(
        name=Path(path).name,
        arrival_s=np.array([each.arrived_s - served[0].arrived_s for each in served]),
        prompt_tokens=prompts,
        output_tokens=np.array([each.ended.output_tokens for each in served if each.ended is not None]),
        source=str(path),
        **columns,
    )


def _session_ids(served: list[LoggedDecision]) -> np.ndarray:
    numbers: dict[Any, int] = {}
    keys = ((each.session,) if each.session >= 0 else i for i, each in enumerate(served))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _prefixes(served: list[LoggedDecision], prompts: np.ndarray, block_tokens: int) -> dict[str, Any]:
    numbers: dict[tuple[int, int], int] = {}
    ids: list[int] = []
    offsets = [0]
    for each, prompt_tokens in zip(served, prompts.tolist(), strict=True):
        before = -1
        for block in each.prefixes[: -(-prompt_tokens // block_tokens)]:
            before = numbers.setdefault((before, block), len(numbers))
            ids.append(before)
        offsets.append(len(ids))
    return {
        "prefix_ids": np.array(ids, np.int64),
        "prefix_offsets": np.array(offsets),
        "prefix_block_tokens": block_tokens,
    }
