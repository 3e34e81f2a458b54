"""Steps vLLM's own V1 scheduler through given workloads and writes what it did, iteration by iteration.

Runs in an environment of its own (tests/serving/vllm/requirements.txt) and imports nothing of servegym:

    VLLM_TARGET_DEVICE=cpu python vllm_scheduler.py cases.json log.json

The scheduler and its KV cache manager are vLLM's, unchanged: synchronous, one full-attention group, no model.
What stands in for the model returns `output[k]` as a request's token number `k`.

`cases.json` is a list of
    {"settings": {"policy": "fcfs" | "priority", "block_size", "num_kv_blocks", "max_num_batched_tokens",
                  "max_num_seqs", "long_prefill_token_threshold", "enable_prefix_caching",
                  "scheduler_reserve_full_isl"},
     "requests": [{"arrival_step", "parent", "think_steps", "priority",
                   "prompt": [token ids], "output": [token ids]}, ...]}
A request of step k is queued before iteration k is scheduled, those of one step in the order of the list. A
follow-up (`parent` >= 0) comes instead `think_steps` after the iteration that follows its parent's last one.
`num_kv_blocks` leaves out the block that vLLM sets aside.

`log.json` is a list of {"vllm": version, "steps": [...]}, one for each case, with for each iteration
    {"scheduled": [[request, tokens, computed before], ...]   in the scheduler's order,
     "preempted": [request, ...]                              in order,
     "admitted": [[request, tokens found in the prefix cache], ...],
     "used_blocks": while it runs,
     "finished": [request, ...], "free_blocks": after it}
where a request is its place in the list. An iteration without requests is written with empty lists.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
import vllm
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

MAX_MODEL_LEN = 1 << 16  # longer than any request here, so that it never decides anything
NEVER = float("inf")
SMALLEST_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "vocab_size": 512,
    "max_position_embeddings": MAX_MODEL_LEN,
}


class RecordingScheduler(Scheduler):
    """vLLM's scheduler, which also remembers the order of preemptions (its output holds them as a set)."""

    preempted: list[int]

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.preempted.append(int(request.request_id))
        super()._preempt_request(request, *args, **kwargs)


def make_scheduler(settings: dict[str, Any], model: ModelConfig) -> RecordingScheduler:
    """A scheduler with one full-attention group of `num_kv_blocks` usable blocks."""
    block_size, num_blocks = settings["block_size"], settings["num_kv_blocks"] + 1
    cache = CacheConfig(block_size=block_size, enable_prefix_caching=settings["enable_prefix_caching"])
    cache.num_gpu_blocks = num_blocks
    config = VllmConfig(
        model_config=model,
        cache_config=cache,
        scheduler_config=SchedulerConfig(
            policy=settings["policy"],
            max_num_batched_tokens=settings["max_num_batched_tokens"],
            max_num_seqs=settings["max_num_seqs"],
            long_prefill_token_threshold=settings["long_prefill_token_threshold"],
            scheduler_reserve_full_isl=settings["scheduler_reserve_full_isl"],
            max_model_len=MAX_MODEL_LEN,
            is_encoder_decoder=False,
            async_scheduling=False,
        ),
    )
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    return RecordingScheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=num_blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=block_size,
    )


def make_request(case: dict[str, Any], place: int, arrival_step: int) -> Request:
    """The request at this place of the list. Its name sorts like its place, which breaks vLLM's last ties."""
    request = case["requests"][place]
    return Request(
        request_id=f"{place:06d}",
        prompt_token_ids=request["prompt"],
        sampling_params=SamplingParams(max_tokens=len(request["output"]), ignore_eos=True),
        pooling_params=None,
        arrival_time=float(arrival_step),
        priority=request["priority"],
        block_hasher=get_request_block_hasher(case["settings"]["block_size"], sha256),
    )


def step(scheduler: RecordingScheduler, outputs: list[list[int]]) -> dict[str, Any]:
    """One iteration: schedule, sample for every request whose tokens are all computed, update."""
    scheduler.preempted = []
    already_running = {request.request_id for request in scheduler.running}
    plan = scheduler.schedule()
    blocks = scheduler.kv_cache_manager.block_pool
    used_blocks = blocks.num_gpu_blocks - 1 - blocks.get_num_free_blocks()

    scheduled, admitted, sampled = [], [], []
    for request_id, tokens in plan.num_scheduled_tokens.items():
        request = scheduler.requests[request_id]
        computed_before = request.num_computed_tokens - tokens  # schedule() has advanced it
        scheduled.append([int(request_id), tokens, computed_before])
        if request_id not in already_running:
            admitted.append([int(request_id), computed_before])
        complete = request.num_computed_tokens == request.num_tokens
        sampled.append([outputs[int(request_id)][request.num_output_tokens]] if complete else [])

    order = list(plan.num_scheduled_tokens)
    answers = scheduler.update_from_output(
        plan,
        ModelRunnerOutput(
            req_ids=order,
            req_id_to_index={request_id: row for row, request_id in enumerate(order)},
            sampled_token_ids=sampled,
        ),
    )
    return {
        "scheduled": scheduled,
        "preempted": scheduler.preempted,
        "admitted": admitted,
        "used_blocks": used_blocks,
        "finished": [
            int(answer.request_id)
            for group in answers.values()
            for answer in group.outputs
            if answer.finish_reason is not None
        ],
        "free_blocks": blocks.get_num_free_blocks(),
    }


def run(case: dict[str, Any], model: ModelConfig) -> dict[str, Any]:
    """The log of one case, until its last request has finished."""
    scheduler = make_scheduler(case["settings"], model)
    outputs = [request["output"] for request in case["requests"]]
    to_come = {place: request["arrival_step"] for place, request in enumerate(case["requests"])}
    for place, request in enumerate(case["requests"]):
        if request["parent"] >= 0:
            to_come[place] = NEVER
    steps: list[dict[str, Any]] = []
    while to_come or scheduler.has_unfinished_requests():
        now = len(steps)
        for place in [place for place, arrival_step in to_come.items() if arrival_step <= now]:
            scheduler.add_request(make_request(case, place, to_come.pop(place)))
        steps.append(step(scheduler, outputs))
        for place in to_come:
            request = case["requests"][place]
            if request["parent"] in steps[-1]["finished"]:
                to_come[place] = now + 1 + request["think_steps"]
    scheduler.shutdown()
    return {"vllm": vllm.__version__, "steps": steps}


def main(cases_path: str, log_path: str) -> None:
    """Read the cases, run them, write the log in one piece."""
    cases = json.loads(Path(cases_path).read_text())
    init_none_hash(sha256)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(SMALLEST_LLAMA))
        model = ModelConfig(
            model=folder, skip_tokenizer_init=True, dtype="float32", seed=0, max_model_len=MAX_MODEL_LEN
        )
        logs = [run(case, model) for case in cases]
    unfinished = Path(log_path).with_suffix(".part")
    unfinished.write_text(json.dumps(logs))
    unfinished.replace(log_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
