"""The same case for our simulators: iterations of one second, arrivals where iterations start."""

import numpy as np

from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.costmodels.iterations.cost import IterationCost
from servegym.envs.workloads import Workload
from tests.witness.cases import Case, Settings
from tests.witness.recording import Step


def one_second(settings: Settings) -> IterationCost:
    """Every iteration lasts 1 s, so that iteration k starts at k seconds."""
    return linear_iteration_cost(
        max_num_batched_tokens=settings["max_num_batched_tokens"],
        max_num_seqs=settings["max_num_seqs"],
        overhead_s=1.0,
    )


def as_workload(case: Case) -> Workload:
    """Its requests. Equal blocks of prompts have equal ids; conversations say what they share by `parent`."""
    requests, block_size = case["requests"], case["settings"]["block_size"]
    columns: dict[str, np.ndarray | int] = {}
    if any(request["parent"] >= 0 for request in requests):
        columns = {
            "parent": np.array([request["parent"] for request in requests]),
            "think_s": np.array([float(request["think_steps"]) for request in requests]),
        }
    else:
        ids = _block_ids([request["prompt"] for request in requests], block_size)
        columns = {
            "prefix_ids": np.array([block for blocks in ids for block in blocks], np.int64),
            "prefix_offsets": np.cumsum([0, *(len(blocks) for blocks in ids)]),
            "prefix_block_tokens": block_size,
        }
    return Workload(
        name="witness",
        arrival_s=np.array([float(request["arrival_step"]) for request in requests]),
        prompt_tokens=np.array([len(request["prompt"]) for request in requests]),
        output_tokens=np.array([len(request["output"]) for request in requests]),
        priority=np.array([request["priority"] for request in requests]),
        **columns,  # type: ignore[arg-type]
    )


def arrival_steps(case: Case, steps: list[Step]) -> list[int]:
    """The iteration before which each request was queued, those of follow-ups as vLLM's log has them."""
    finished = {request: number for number, step in enumerate(steps) for request in step["finished"]}
    return [
        finished[request["parent"]] + 1 + request["think_steps"]
        if request["parent"] >= 0
        else request["arrival_step"]
        for request in case["requests"]
    ]


def _block_ids(prompts: list[list[int]], block_size: int) -> list[list[int]]:
    """Of each prompt, one id for each full block: the same for the same tokens up to the block's end."""
    known: dict[tuple[int, ...], int] = {}
    return [
        [
            known.setdefault(tuple(prompt[: (block + 1) * block_size]), len(known))
            for block in range(len(prompt) // block_size)
        ]
        for prompt in prompts
    ]
