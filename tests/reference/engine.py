"""Engine settings of one replica, and which requests such an engine can serve at all."""

import math
from dataclasses import dataclass

from servegym.costmodels.errors import InputError

SCHEDULERS = ("vllm_v1", "sarathi", "vllm_v0", "orca", "lightllm", "sglang", "ranked", "static", "multi_bin")
WATERMARKED = ("sarathi", "vllm_v0", "vllm_v1", "ranked")
SGLANG_CLIP_TOKENS = 4096  # of a request's future output, SGLang counts at most so many


@dataclass(frozen=True)
class Engine:
    """Settings under the names of docs/simulator.md, "Engine settings".

    `restart_cuts_prompt` is Vidur's quirk, for replays of its runs only: a request preempted in
    the middle of its prefill keeps the tokens computed so far as its prompt, the rest becomes output; what
    was recorded did finish, so the stricter checks for fitting are left out.
    Raises `InputError` for values out of range.
    """

    max_num_batched_tokens: int
    max_num_seqs: int
    block_size: int
    num_kv_blocks: int
    scheduler: str = "vllm_v1"
    order: str = "fcfs"
    prefix_caching: bool = False
    long_prefill_token_threshold: int = 0
    reserve_full_prompt: bool = True
    watermark: float | None = None
    reserved_output_share: float = 0.0
    max_padded_prefill_tokens: int = 0
    preemption: str = "recompute"
    swap_blocks: int = 0
    swap_s_per_block: float = 0.0
    swap_ahead_blocks: int = 0
    max_model_len: int = 0
    decodes_between_prefills: int = 10
    restart_cuts_prompt: bool = False

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise InputError(f"scheduler: {self.scheduler!r}, must be one of {', '.join(SCHEDULERS)}")
        most = math.inf if self.scheduler == "sarathi" else self.max_num_batched_tokens
        if not 1 <= self.max_num_seqs <= most:
            raise InputError(f"max_num_seqs: {self.max_num_seqs}, not in 1..{most}")
        for name in ("num_kv_blocks", "block_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}, at least 1 is needed")
        if self.order not in ("fcfs", "priority", "rank"):
            raise InputError(f"order: {self.order!r}, must be fcfs, priority or rank")
        if self.order == "rank" and self.scheduler in ("sglang", "ranked"):
            raise InputError(f"order: rank, not with scheduler {self.scheduler}")
        if self.scheduler == "multi_bin" and self.order != "rank":
            raise InputError(f"order: {self.order}, multi_bin needs rank: the key is the bin")
        if self.preemption not in ("recompute", "swap"):
            raise InputError(f"preemption: {self.preemption!r}, must be recompute or swap")
        if self.prefix_caching and self.scheduler not in ("vllm_v1", "sglang"):
            raise InputError(f"prefix_caching: not with scheduler {self.scheduler}, only vllm_v1 and sglang")
        if self.watermark and self.scheduler not in WATERMARKED:
            raise InputError(
                f"watermark: {self.watermark} with {self.scheduler}, only {', '.join(WATERMARKED)}"
            )
        if self.watermark is not None and not 0 <= self.watermark < 1:
            raise InputError(f"watermark: {self.watermark}, must be from 0 to below 1")
        if not 0 <= self.reserved_output_share <= 1:
            raise InputError(f"reserved_output_share: {self.reserved_output_share}, must be from 0 to 1")
        if self.reserved_output_share and (self.scheduler != "vllm_v1" or self.prefix_caching):
            raise InputError("reserved_output_share: only with vllm_v1 without prefix_caching")
        if self.swap_ahead_blocks < 0:
            raise InputError(f"swap_ahead_blocks: {self.swap_ahead_blocks}, at least 0 is needed")
        if self.swap_ahead_blocks and (self.scheduler != "ranked" or self.preemption != "swap"):
            raise InputError("swap_ahead_blocks: only with ranked and preemption swap")
        if self.scheduler == "orca" and self.max_model_len < 1:
            raise InputError("max_model_len: orca reserves for it, at least 1 is needed")

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    @property
    def watermark_blocks(self) -> int:
        default = 0.01 if self.scheduler in ("sarathi", "vllm_v0") else 0.0
        share = default if self.watermark is None else self.watermark
        return int(share * self.num_kv_blocks)

    @property
    def lightllm_tokens(self) -> int:
        """KV tokens that LightLLM may plan with: what rounding up to blocks can cost is set aside."""
        return self.num_kv_blocks * self.block_size - self.max_num_seqs * (self.block_size - 1)

    def output_limit(self, prompt_tokens: int, max_output_tokens: int) -> int:
        """`m`, with `p + m` capped at `max_model_len` where that is set."""
        if self.max_model_len:
            return min(max_output_tokens, self.max_model_len - prompt_tokens)
        return max_output_tokens

    def target_blocks(self, known: int, prompt: int, limit: int) -> int:
        """What admission with `reserved_output_share` aims at, in all, for a request with this limit `m`."""
        wanted = prompt + math.ceil(self.reserved_output_share * (limit - 1))
        return self.blocks_for(max(known, wanted))

    def why_unfit(self, prompt: int, output: int, max_output: int) -> str:
        """Why a request can never be served to its end by an engine of its own; empty if it can."""
        last = prompt + output - 1
        blocks = self.blocks_for(last)
        if blocks > self.num_kv_blocks:
            return f"needs {blocks} KV blocks of {self.num_kv_blocks}"
        too_long = 0 < self.max_model_len < prompt + output
        if too_long and self.scheduler in ("orca", "lightllm", "sglang", "static", "multi_bin"):
            return f"needs {prompt + output} tokens, max_model_len is {self.max_model_len}"
        limit = self.output_limit(prompt, max_output)
        budget = self.max_num_batched_tokens
        if self.scheduler in ("sarathi", "vllm_v0") and not self.restart_cuts_prompt:
            free_at_turn = self.blocks_for(last - 1) + 1 if output > 1 else 0
            needed = max(blocks + self.watermark_blocks, free_at_turn)
            if needed > self.num_kv_blocks:
                return f"needs {needed} KV blocks of {self.num_kv_blocks}"
        if self.scheduler in ("vllm_v1", "ranked"):
            needed = blocks + self.watermark_blocks
            if self.reserved_output_share:
                needed = self.target_blocks(last, prompt, limit) + self.watermark_blocks
            if needed > self.num_kv_blocks:
                return f"may need {needed} KV blocks of {self.num_kv_blocks}"
        if self.scheduler in ("static", "multi_bin"):
            if prompt > budget:
                return f"prompt of {prompt} tokens, at most {budget}"
            if self.blocks_for(prompt + limit - 1) > self.num_kv_blocks:
                return f"may need {self.blocks_for(prompt + limit - 1)} KV blocks of {self.num_kv_blocks}"
        if self.scheduler == "vllm_v0" and last > (self.max_padded_prefill_tokens or budget):
            return f"may have to prefill {last} tokens, over the limit of a prefill batch"
        if self.scheduler == "orca":
            if prompt > budget - self.max_num_seqs + 1:
                return f"prompt of {prompt} tokens, at most {budget - self.max_num_seqs + 1}"
            if self.blocks_for(self.max_model_len) > self.num_kv_blocks:
                return f"max_model_len needs more than {self.num_kv_blocks} KV blocks"
        if self.scheduler == "lightllm":
            if prompt > budget:
                return f"prompt of {prompt} tokens, at most {budget}"
            if prompt + 1 + max(0, limit - 2) >= self.lightllm_tokens:
                return (
                    f"may need {prompt + 1 + max(0, limit - 2)} KV tokens, not below {self.lightllm_tokens}"
                )
        if self.scheduler == "sglang":
            needed = self.blocks_for(last + min(limit - output + 1, SGLANG_CLIP_TOKENS))
            if needed > self.num_kv_blocks:
                return f"may need {needed} KV blocks of {self.num_kv_blocks}"
        return ""
