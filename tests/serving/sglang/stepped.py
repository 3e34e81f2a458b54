"""SGLang's own scheduler, stepped without a model: real queue, admission, radix cache, memory and retraction.

What lies around it (processes, sockets, metrics, the model) is stood in for; a step's output is one token a
request, whose number says which.
"""

import json
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.disaggregation.utils import DisaggregationMode
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components.new_token_ratio_tracker import NewTokenRatioTracker
from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.common import release_kv_cache
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
from sglang.srt.mem_cache.radix_cache import RadixCache
from sglang.srt.runtime_context import publish
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.server_args import ServerArgs
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

VOCABULARY = 1000
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 8192,
    "torch_dtype": "float32",
    "rms_norm_eps": 1e-5,
}


def publish_settings(folder: Path, **settings: Any) -> ServerArgs:
    """SGLang's configuration of this process, for a tiny model that is never loaded."""
    (folder / "config.json").write_text(json.dumps(MODEL))
    args = ServerArgs(
        model_path=str(folder),
        device="cpu",
        skip_tokenizer_init=True,
        load_format="dummy",
        page_size=1,
        **settings,
    )
    publish(args, role="scheduler")
    return args


class SteppedScheduler(Scheduler):
    """Steps by `step`; `history` says of each which kind it was and of whom."""

    def __init__(self, folder: Path, kv_tokens: int, max_running_requests: int, **settings: Any) -> None:
        args = publish_settings(
            folder,
            max_running_requests=max_running_requests,
            pp_max_micro_batch_size=max_running_requests,
            **settings,
        )
        self.server_args = args
        self.max_running_requests = max_running_requests
        self.model_config = ModelConfig.from_server_args(args)
        self.req_to_token_pool = ReqToTokenPool(max_running_requests, 8192, "cpu", False)
        pool = MHATokenToKVPool(
            size=kv_tokens,
            page_size=1,
            dtype=torch.float32,
            head_num=1,
            head_dim=8,
            layer_num=1,
            device="cpu",
            enable_memory_saver=False,
        )
        self.token_to_kv_pool_allocator = TokenToKVPoolAllocator(kv_tokens, torch.float32, "cpu", pool, False)
        self.tree_cache = RadixCache(
            CacheInitParams(
                disable=False,
                req_to_token_pool=self.req_to_token_pool,
                token_to_kv_pool_allocator=self.token_to_kv_pool_allocator,
                page_size=1,
            )
        )
        self.schedule_policy, self.page_size, self.device = args.schedule_policy, 1, "cpu"
        self.chunked_prefill_size, self.max_prefill_tokens = args.chunked_prefill_size, 16_384
        self.enable_priority_scheduling = args.enable_priority_scheduling
        self.schedule_low_priority_values_first = args.schedule_low_priority_values_first
        self.priority_scheduling_preemption_threshold = 10
        self.is_mixed_chunk = bool(args.enable_mixed_chunk)
        self.disaggregation_mode = DisaggregationMode.NULL
        self.spec_algorithm = SpeculativeAlgorithm.NONE
        self.new_token_ratio_tracker = NewTokenRatioTracker.from_config()
        self.tp_worker = SimpleNamespace(
            model_runner=SimpleNamespace(attn_backend=SimpleNamespace(), prefill_aware_swa=False)
        )
        same = SimpleNamespace(
            maybe_prepare_mlp_sync_batch=lambda batch, **_: batch,
            maybe_convert_decode_to_extend=lambda batch: batch,
            prepare_for_forward=lambda batch, **_: batch,
        )
        self.dp_attn_adapter = self.ngram_embedding_manager = same
        self.grammar_manager = SimpleNamespace(has_waiting_grammars=lambda: False)
        self.beam_coordinator = SimpleNamespace(pending_member_rows=lambda _: 0)
        self.load_inquirer = SimpleNamespace(_get_num_pending_tokens=lambda **_: 0)
        self.metrics_reporter = SimpleNamespace(num_retracted_reqs=0, enable_metrics=False)
        self.waiting_queue: list[Req] = []
        self.chunked_req = self._pending_chunked_abort_req = None
        self.processed_tokens_counter = self.forward_ct = self.max_prefill_bs = 0
        self._prefill_decode_interval_remaining = self.prefill_decode_interval = 0
        for name in (
            "dynamic_chunk_sizer",
            "min_free_slots_delayer",
            "dllm_config",
            "truncation_align_size",
            "lora_drainer",
            "hisparse_coordinator",
            "decode_offload_manager",
            "scheduler_stage_metrics",
            "prefill_delayer",
        ):
            setattr(self, name, None)
        for name in (
            "enable_hierarchical_cache",
            "enable_priority_preemption",
            "is_hybrid_swa",
            "enable_lora",
            "enable_hicache_storage",
            "enable_lmcache",
            "enable_overlap",
            "enable_unified_cache_external_linker",
            "enable_hisparse",
            "enable_skip_finishing_decode",
            "require_mlp_sync",
        ):
            setattr(self, name, False)
        self.init_schedule_policy()
        self.running = ScheduleBatch(reqs=[], batch_is_full=False)
        self.last: ScheduleBatch | None = None
        self.finished: dict[str, Req] = {}
        self.history: list[tuple[str, tuple[str, ...]]] = []
        self.num_retracted = 0

    def add(self, name: str, prompt_tokens: int, output_tokens: int, **options: Any) -> Req:
        """A request arrives, whose output ends by its length."""
        priority = options.pop("priority", None)
        request = Req(
            rid=name,
            origin_input_text="",
            origin_input_ids=prompt_of(name, prompt_tokens),
            sampling_params=SamplingParams(max_new_tokens=output_tokens, **options),
            vocab_size=VOCABULARY,
            eos_token_ids={0},
            priority=priority,
        )
        request.sampling_params.normalize(None)
        self.waiting_queue.append(request)
        request.time_stats.set_wait_queue_entry_time()
        return request

    def step(self) -> bool:
        """One batch; False where there was none."""
        plan = self.get_next_batch_to_run(self.running, self.last)
        batch, self.running = plan.batch_to_run, plan.running_batch
        if batch is not None:
            self._complete(batch)
        self.last = batch
        return batch is not None

    def run(self, each_step: Callable[[], None] = lambda: None) -> None:
        """Until all are finished."""
        for _ in range(10_000):
            each_step()
            if not self.step() and not self.waiting_queue and self.running.is_empty():
                return
        raise AssertionError("it does not end")

    def leaked(self) -> tuple[int, int]:
        """KV tokens and rows that nobody gave back."""
        free = self.token_to_kv_pool_allocator.available_size() + self.tree_cache.evictable_size()
        rows = self.req_to_token_pool.available_size()
        return self.token_to_kv_pool_allocator.size - free, self.max_running_requests - rows

    def _add_request_to_queue(self, req: Req, is_retracted: bool = False) -> None:
        self.num_retracted += is_retracted
        self.waiting_queue.append(req)
        req.time_stats.set_wait_queue_entry_time()

    def _complete(self, batch: ScheduleBatch) -> None:
        """What the model and SGLang's processing of its output do to the requests of a batch."""
        kind = "prefill" if batch.forward_mode.is_extend() else "decode"
        self.history.append((kind, tuple(request.rid for request in batch.reqs)))
        self.forward_ct += 1
        for request in batch.reqs:
            if request.inflight_middle_chunks > 0:
                request.inflight_middle_chunks -= 1
                continue
            request.output_ids.append(token_of(request.rid, len(request.output_ids)))
            request.update_finish_state()
            if request.finished():
                release_kv_cache(request, self.tree_cache, checkpoint=True)
                self.finished[request.rid] = request
        batch.output_ids = torch.tensor([request.output_ids[-1:] or [1] for request in batch.reqs]).flatten()


def prompt_of(name: str, tokens: int) -> "array[int]":
    first = 1 + sum(map(ord, name)) * 7 % 900
    return array("q", [first, *((first * (i + 3)) % (VOCABULARY - 1) + 1 for i in range(tokens - 1))])


def token_of(name: str, number: int) -> int:
    return 1 + (sum(map(ord, name)) * 31 + number * 7) % (VOCABULARY - 1)
