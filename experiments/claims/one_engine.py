"""One engine on one GPU and the conversations that come to it: what claims of schedulers are measured on."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import kv_capacity_blocks
from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.iterations.presets import load_preset
from servegym.costmodels.specs import gpu_spec, model_spec
from servegym.envs.metrics import latency_s
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.ranking import Ranking
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.workloads import LengthTable, Workload, find_data, read_lengths
from servegym.envs.workloads.workload import MAX_TOKENS

SHAREGPT = "traces/lengths/sharegpt_val_10k_llama2.csv.gz"
"""Lengths of ShareGPT conversations in tokens of Llama 2."""

Predict = Callable[[npt.NDArray[np.int32], np.random.Generator], npt.NDArray[np.int32]]
"""Of true outputs (N,): predictions."""

ONLY = make_router("round_robin")


class OneEngine(NamedTuple):
    """An engine and its clock."""

    engine: Engine
    cost: IterationCost

    def serve(self, workload: Workload, scheduler: Ranking | None = None, *, log: bool = False) -> Results:
        """The workload to its last token, in the engine's own order or under a scheduler.

        InputError for a scheduler that brings along limits beyond those of the clock.
        """
        engine = self.engine if scheduler is None else scheduler.applied_to(self.engine)
        return simulate(
            workload, ONLY, num_replicas=1, engine=engine, cost=self.cost, ranking=scheduler, log=log
        )


@functools.cache
def preset_engine(
    gpu: str, model: str, *, budget: int, seats: int = 256, num_kv_blocks: int | None = None
) -> OneEngine:
    """vLLM's V1 engine with a measured clock; None: as many KV blocks as fit beside the weights."""
    if num_kv_blocks is None:
        num_kv_blocks = kv_capacity_blocks(model_spec(model), gpu_spec(gpu))
    return OneEngine(
        Engine(max_num_batched_tokens=budget, max_num_seqs=seats, num_kv_blocks=num_kv_blocks),
        load_preset(gpu, model, 1, max_num_batched_tokens=budget, max_num_seqs=seats),
    )


@functools.cache
def sharegpt(longest_prompt: int, longest_output: int = MAX_TOKENS) -> LengthTable:
    """Conversations of `SHAREGPT` up to these lengths; InputError where it is not there."""
    path = find_data(SHAREGPT)
    if path is None:
        raise InputError(f"{SHAREGPT}: not in the data folder, must be there")
    table = read_lengths(path)
    kept = (table.prompt_tokens <= longest_prompt) & (table.output_tokens <= longest_output)
    return LengthTable(table.prompt_tokens[kept], table.output_tokens[kept])


def requests(
    lengths: LengthTable, count: int, rate_rps: float, seed: int, predict: Predict | None = None
) -> Workload:
    """Poisson arrivals, all at once at an infinite rate; equal seeds have equal lengths at every rate."""
    gaps, drawn, guesses = (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(3))
    arrival_s = np.cumsum(gaps.exponential(1 / rate_rps, count))
    prompts, outputs = lengths.sample(count, drawn)
    workload = Workload("ShareGPT", arrival_s, prompts, outputs)
    return workload if predict is None else workload.with_predictions(predict(outputs, guesses))


def latency_per_token_s(results: Results) -> npt.NDArray[np.float64]:
    """Latency over output tokens of each request (N,), s: normalised latency, as vLLM's paper has it."""
    return latency_s(results) / results.output_tokens
