"""The settings of a replica's engine: docs/simulator.md, "Engine settings"."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import Workload

SCHEDULERS = (
    "vllm_v1",
    "sarathi",
    "vllm_v0",
    "orca",
    "lightllm",
    "sglang",
    "ranked",
    "static",
    "multi_bin",
    "agent",
)
"""By number: the position here is what compiled code branches on."""

VLLM_V1, SARATHI, VLLM_V0, ORCA, LIGHTLLM, SGLANG, RANKED, STATIC, MULTI_BIN, AGENT = range(len(SCHEDULERS))

MAX_NUM_SEQS = 2**16 - 1  # counts of decodes have 16 bits

ORDERS = ("fcfs", "priority", "rank")
FCFS, PRIORITY, RANK = range(len(ORDERS))


class EngineNumbers(NamedTuple):
    """What compiled code reads of an engine: the settings of `Engine` as numbers, bool as 0 and 1."""

    scheduler: int  # its position in SCHEDULERS
    max_num_batched_tokens: int
    max_num_seqs: int
    num_kv_blocks: int
    block_size: int
    order: int  # its position in ORDERS
    prefix_caching: int
    long_prefill_token_threshold: int
    reserve_full_prompt: int
    watermark_blocks: int
    max_padded_prefill_tokens: int
    swap_blocks: int
    swap_s_per_block: float
    max_model_len: int
    decodes_between_prefills: int
    restart_cuts_prompt: int
    counts_energy: int  # the joules of its iterations are added up
    reserved_output_share: float
    swap_ahead_blocks: int
    reserved_blocks: int  # Orca: of every running request; 0: blocks follow the tokens


@dataclass
class Engine:
    """The limits and rules of a replica's engine, under vLLM's names where vLLM has them.

    max_num_batched_tokens: token budget of one iteration (Sarathi: its chunk size).
    max_num_seqs: requests running at once; at most the token budget, but for Sarathi.
    num_kv_blocks: KV blocks of `block_size` tokens.
    scheduler: one of `SCHEDULERS`. order: one of `ORDERS`, of the waiting queue.
    The others belong to single schedulers, see docs/simulator.md, "Engine settings".
    restart_cuts_prompt: as Vidur, which takes the tokens processed so far for the prompt of a request that
    is preempted in the middle of its prefill; for replaying its runs.
    """

    max_num_batched_tokens: int
    max_num_seqs: int
    num_kv_blocks: int
    block_size: int = 16
    scheduler: str = "vllm_v1"
    order: str = "fcfs"
    prefix_caching: bool = False
    long_prefill_token_threshold: int = 0
    reserve_full_prompt: bool = True
    watermark: float | None = None
    max_padded_prefill_tokens: int = 0
    preemption: str = "recompute"
    swap_blocks: int = 0
    swap_s_per_block: float = 0.0
    max_model_len: int = 0
    decodes_between_prefills: int = 10
    restart_cuts_prompt: bool = False
    reserved_output_share: float = 0.0
    swap_ahead_blocks: int = 0

    def __post_init__(self) -> None:
        for key in ("max_num_batched_tokens", "max_num_seqs", "num_kv_blocks", "block_size"):
            if getattr(self, key) < 1:
                raise InputError(f"engine.{key} = {getattr(self, key)}: must be at least 1")
        if self.max_num_seqs > MAX_NUM_SEQS:
            raise InputError(f"engine.max_num_seqs = {self.max_num_seqs}: must be at most {MAX_NUM_SEQS}")
        for key in (
            "long_prefill_token_threshold",
            "max_padded_prefill_tokens",
            "max_model_len",
            "swap_ahead_blocks",
        ):
            if getattr(self, key) < 0:
                raise InputError(f"engine.{key} = {getattr(self, key)}: must be at least 0 (0: off)")
        # Sarathi admits nobody beyond its budget, so that more seats than tokens are never taken by decodes.
        if self.max_num_seqs > self.max_num_batched_tokens and self.scheduler != "sarathi":
            raise InputError(
                f"engine.max_num_seqs = {self.max_num_seqs}: must be at most "
                f"max_num_batched_tokens = {self.max_num_batched_tokens}"
            )
        for key, allowed in (
            ("scheduler", SCHEDULERS),
            ("order", ORDERS),
            ("preemption", ("recompute", "swap")),
        ):
            if getattr(self, key) not in allowed:
                raise InputError(f"engine.{key} = {getattr(self, key)}: must be one of {', '.join(allowed)}")
        if self.watermark is not None and not 0 <= self.watermark < 1:
            raise InputError(f"engine.watermark = {self.watermark}: must be at least 0 and below 1")
        if not 0 <= self.reserved_output_share <= 1:
            raise InputError(
                f"engine.reserved_output_share = {self.reserved_output_share}: must be from 0 to 1"
            )
        if self.decodes_between_prefills < 1:
            raise InputError(
                f"engine.decodes_between_prefills = {self.decodes_between_prefills}: must be at least 1"
            )
        if not 0 <= self.swap_s_per_block < np.inf or self.swap_blocks < 0:
            raise InputError(
                f"engine.swap_blocks = {self.swap_blocks}, swap_s_per_block = {self.swap_s_per_block}: "
                "must be at least 0 and finite"
            )
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Refuses settings that the chosen scheduler does not have, or cannot do without."""
        only = {
            "long_prefill_token_threshold": ("vllm_v1",),
            "prefix_caching": ("vllm_v1", "sglang"),
            "max_padded_prefill_tokens": ("vllm_v0",),
            "swap_blocks": ("vllm_v0", "ranked"),
            "swap_ahead_blocks": ("ranked",),
            "watermark": ("sarathi", "vllm_v0", "vllm_v1", "ranked"),
            "reserved_output_share": ("vllm_v1",),
            "max_model_len": ("orca",),
        }
        defaults = {field.name: field.default for field in fields(self)}
        for key, schedulers in only.items():
            if getattr(self, key) != defaults[key] and self.scheduler not in schedulers:
                raise InputError(
                    f"engine.{key} = {getattr(self, key)}: only with scheduler {' or '.join(schedulers)}, "
                    f"not {self.scheduler}"
                )
        if (self.preemption == "swap") != (self.swap_blocks > 0):
            raise InputError(
                f"engine.preemption = {self.preemption}, swap_blocks = {self.swap_blocks}: swapping needs "
                "host memory, and only swapping does"
            )
        if self.swap_ahead_blocks > 0 and self.preemption != "swap":
            raise InputError(
                f"engine.swap_ahead_blocks = {self.swap_ahead_blocks}: must be 0 without preemption swap"
            )
        if self.reserved_output_share > 0 and self.prefix_caching:
            raise InputError(
                f"engine.reserved_output_share = {self.reserved_output_share}: must be 0 with prefix_caching"
            )
        if self.max_padded_prefill_tokens > self.max_num_batched_tokens:
            raise InputError(
                f"engine.max_padded_prefill_tokens = {self.max_padded_prefill_tokens}: must be at most "
                f"max_num_batched_tokens = {self.max_num_batched_tokens}"
            )
        if self.scheduler == "orca" and self.max_model_len < 1:
            raise InputError("engine.max_model_len = 0: orca reserves for it, must be at least 1")
        if self.scheduler == "orca" and self._blocks(self.max_model_len) > self.num_kv_blocks:
            raise InputError(
                f"engine.max_model_len = {self.max_model_len}: orca reserves "
                f"{self._blocks(self.max_model_len)} KV blocks, num_kv_blocks is {self.num_kv_blocks}"
            )
        if self.order != "fcfs" and self.scheduler in ("sglang", "ranked"):
            by_what = "prefix" if self.scheduler == "sglang" else "the keys of all its requests"
            raise InputError(
                f"engine.order = {self.order}: {self.scheduler} orders by {by_what}, must be fcfs"
            )
        if self.order != "rank" and self.scheduler == "multi_bin":
            raise InputError(f"engine.order = {self.order}: the keys of multi_bin are its bins, must be rank")

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    @property
    def watermark_blocks(self) -> int:
        """Blocks that admission leaves free: 1 % by default where the scheduler has a watermark."""
        share = self.watermark
        if share is None:
            share = 0.01 if self.scheduler in ("sarathi", "vllm_v0") else 0.0
        return int(share * self.num_kv_blocks)

    def numbers(self) -> EngineNumbers:
        """The engine as compiled code has it."""
        values = {name: getattr(self, name, 0) for name in EngineNumbers._fields}
        values["scheduler"] = SCHEDULERS.index(self.scheduler)
        values["order"] = ORDERS.index(self.order)
        values["reserved_blocks"] = self._blocks(self.max_model_len) if self.scheduler == "orca" else 0
        return EngineNumbers(
            **{name: kind(values[name]) for name, kind in EngineNumbers.__annotations__.items()}
        )

    def refuse_agent(self) -> None:
        """Raises InputError where a caller would have to decide and there is none."""
        if self.scheduler == "agent":
            raise InputError(
                "engine.scheduler = agent: decides nothing by itself, only in an environment such as "
                f"servegym/Batching-v0; must be one of {', '.join(SCHEDULERS[:-1])}"
            )

    def fits(self, workload: Workload) -> np.ndarray:
        """Bool (N,): which requests this engine can serve to their end."""
        return np.logical_and.reduce([fits for fits, _, _ in self._needs(workload)])

    def check_fits(self, workload: Workload) -> None:
        """Raises InputError naming the first request that this engine could never serve to its end."""
        for fits, needs, of_what in self._needs(workload):
            self._require(workload, fits, needs, of_what)

    def _needs(self, workload: Workload) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
        """Of what requests need: whether there is enough, how much they need (N,), and its name."""
        prompt = workload.prompt_tokens.astype(np.int64)
        output = workload.output_tokens.astype(np.int64)
        last = prompt + output - 1
        blocks = -(-last // self.block_size)
        # What was recorded did finish, perhaps because nobody who would not fit again was preempted.
        usable = self.num_kv_blocks - (0 if self.restart_cuts_prompt else self.watermark_blocks)
        yield blocks <= usable, blocks, "KV blocks"
        limits = {
            "sarathi": (last, self._one_free_block_tokens()),
            "vllm_v0": (
                last,
                min(
                    self._one_free_block_tokens(),
                    self.max_padded_prefill_tokens or self.max_num_batched_tokens,
                ),
            ),
            "orca": (prompt, self.max_num_batched_tokens - self.max_num_seqs + 1),
            "lightllm": (prompt, self.max_num_batched_tokens),
        }
        if self.scheduler in limits:
            tokens, most = limits[self.scheduler]
            yield tokens <= most, tokens, f"tokens in one batch, at most {most} fit"
        if self.scheduler == "orca":
            tokens = prompt + output
            yield tokens <= self.max_model_len, tokens, "tokens of max_model_len"
        limit = output if workload.max_output_tokens is None else workload.max_output_tokens.astype(np.int64)
        if self.scheduler in ("static", "multi_bin"):
            most = self.max_num_batched_tokens
            yield prompt <= most, prompt, f"tokens in one batch, at most {most} fit"
            promised = -(-(prompt + limit - 1) // self.block_size)
            yield promised <= self.num_kv_blocks, promised, "KV blocks for its output limit"
        if self.reserved_output_share > 0:
            reserved = prompt + np.ceil(self.reserved_output_share * (limit - 1)).astype(np.int64)
            target = -(-np.maximum(last, reserved) // self.block_size)
            yield target <= usable, target, "KV blocks set aside at its admission"
        if self.scheduler == "lightllm":
            peak = prompt + 1 + np.maximum(0, limit - 2)
            capacity = self.num_kv_blocks * self.block_size - self.max_num_seqs * (self.block_size - 1)
            yield peak < capacity, peak, f"KV tokens at its peak, below {capacity} are"
        if self.scheduler == "sglang":
            promised = -(-(last + np.minimum(limit - output + 1, 4096)) // self.block_size)
            yield promised <= self.num_kv_blocks, promised, "KV blocks promised"

    def _one_free_block_tokens(self) -> int:
        """Most tokens of a request whose last decode still finds a free block."""
        if self.restart_cuts_prompt:
            return self.num_kv_blocks * self.block_size
        return (self.num_kv_blocks - 1) * self.block_size + 1

    def _require(self, workload: Workload, fits: np.ndarray, needs: np.ndarray, of_what: str) -> None:
        if fits.all():
            return
        i = int(np.argmin(fits))
        raise InputError(
            f"workload {workload.name!r}: request {i} with {workload.prompt_tokens[i]} prompt and "
            f"{workload.output_tokens[i]} output tokens needs {needs[i]} {of_what}; the engine "
            f"({self.scheduler}) has num_kv_blocks = {self.num_kv_blocks}, max_num_batched_tokens = "
            f"{self.max_num_batched_tokens}, watermark {self.watermark_blocks} blocks"
        )
