"""Where each number that a policy reads comes from in each serving system, in words for whoever installs it.

Where a system does not know a number, what stands in for it is said. "own books": the router's own account of
what it sent where and what came back (fleet_view.py), the same whatever the system.
"""

SYSTEMS = ("vllm", "ray_serve", "envoy", "litellm", "sglang")
"""vllm, sglang: as the engine that reports, to whatever router; the others: as the router that asks."""

_BOOKS = "own books"
_SETTING = "set by the operator"

_ROUTER = {
    "request.prompt_tokens": (
        "tokens of the prompt, or its bytes / 4",
        "as vllm, of the first argument",
        "as vllm, of the buffered body",
        "as vllm, of messages",
        "as vllm",
    ),
    "request.predicted_output_tokens": ("a length predictor; max_tokens if smaller; 0: unknown",) * 5,
    "request.gap_s": ("time since the request before at this router",) * 5,
    "request.priority": ("priority in the body; 0", "as vllm", "as vllm", "as vllm", "as vllm"),
    "replicas.available": (
        "/health answers",
        "among the candidates",
        "healthy in its cluster",
        "not in cooldown",
        "/health answers",
    ),
    "replicas.running": (
        "vllm:num_requests_running",
        "routing_stats; else own books",
        "running requests in the metrics scraped",
        _BOOKS,
        "sglang:num_running_reqs",
    ),
    "replicas.waiting": (
        "vllm:num_requests_waiting",
        "routing_stats; else own books",
        "queued requests in the metrics scraped",
        "0",
        "sglang:num_queue_reqs",
    ),
    "replicas.queued_prefill_tokens": (_BOOKS, "routing_stats; else own books", _BOOKS, _BOOKS, _BOOKS),
    "replicas.outstanding_tokens": (_BOOKS, "routing_stats; else own books", _BOOKS, _BOOKS, _BOOKS),
    "replicas.decode_context_tokens": (_BOOKS, "routing_stats; else own books", _BOOKS, _BOOKS, _BOOKS),
    "replicas.kv_used_blocks": (
        "vllm:kv_cache_usage_perc * blocks",
        "routing_stats; else own books",
        "KV cache utilisation in the metrics scraped * blocks",
        _BOOKS,
        "sglang:token_usage * blocks",
    ),
    "replicas.kv_total_blocks": (
        "vllm:cache_config_info, num_gpu_blocks",
        "routing_stats; else set by the operator",
        "as the engine says; else set by the operator",
        _SETTING,
        "sglang:max_total_num_tokens / block size",
    ),
    "replicas.iteration_left_s": ("0: not reported", "routing_stats; else 0", "0", "0", "0: not reported"),
    "replicas.predicted_remaining_tokens": (
        _BOOKS,
        "routing_stats; else own books",
        _BOOKS,
        _BOOKS,
        _BOOKS,
    ),
    "replicas.kv_released_per_iteration": (
        _BOOKS,
        "routing_stats; else own books",
        _BOOKS,
        _BOOKS,
        _BOOKS,
    ),
    "replicas.prefix_hit_tokens": ("prefixes in own books",) * 5,
    "replicas.speed": (_SETTING,) * 5,
    "replicas.unseen_requests": ("sent since the last report, own books",) * 5,
    "replicas.unseen_prefill_tokens": ("sent since the last report, own books",) * 5,
    "setting.overhead_s": ("set by the operator, of a cost model",) * 5,
    "setting.s_per_prefill_token": ("set by the operator, of a cost model",) * 5,
    "setting.s_per_decode": ("set by the operator, of a cost model",) * 5,
    "setting.s_per_context_token": ("set by the operator, of a cost model",) * 5,
    "setting.token_budget": (
        "--max-num-batched-tokens",
        _SETTING,
        _SETTING,
        _SETTING,
        "--chunked-prefill-size",
    ),
    "setting.block_size": ("--block-size", _SETTING, _SETTING, _SETTING, "--page-size"),
    "setting.mean_output_tokens": ("mean of answers so far, own books",) * 5,
    "setting.ttft_weight": (_SETTING,) * 5,
    "setting.latency_weight": (_SETTING,) * 5,
    "level": ("0 in a router, 1 in a scheduler",) * 5,
}

_ENGINE = {
    "engine.running": "len(scheduler.running)",
    "engine.waiting": "len(scheduler.waiting)",
    "engine.decoding": "running requests whose prompt is computed",
    "engine.admitted": "running requests whose prompt is not",
    "engine.queued_prefill_tokens": "tokens of waiting and admitted requests not computed",
    "engine.outstanding_tokens": "these and the predicted output still to come",
    "engine.decode_context_tokens": "num_computed_tokens of decodes, summed",
    "engine.kv_used_blocks": "blocks in use of the block pool",
    "engine.kv_total_blocks": "blocks of the block pool",
    "engine.unclaimed_tokens": "token budget less what running requests take",
    "engine.unclaimed_blocks": "free blocks of the block pool less what running requests take",
    "engine.seats_left": "max_num_active_reqs less running",
    "engine.predicted_remaining_tokens": "predicted output less generated, of running requests",
    "requests.is_waiting": "in the waiting queue",
    "requests.is_prefilling": "running, prompt not computed",
    "requests.is_decoding": "running, prompt computed",
    "requests.prompt_tokens": "num_prompt_tokens",
    "requests.known_tokens": "num_tokens",
    "requests.computed_tokens": "num_computed_tokens",
    "requests.predicted_output_tokens": "a length predictor; max_tokens if smaller",
    "requests.generated_tokens": "num_output_tokens",
    "requests.since_arrival_s": "now - arrival_time",
    "requests.priority": "priority",
    "requests.blocks": "blocks that its tokens need",
    "requests.legal": "its blocks, seat and tokens are free",
}
"""In vLLM's scheduler; SGLang's engine hook reads the same of its queues, and routers decide none of this."""


def sources(feature: str) -> dict[str, str]:
    """By system, of `INPUT.FEATURE`."""
    if feature in _ENGINE:
        router = "not decided in a router"
        words = (_ENGINE[feature], router, router, router, f"as vllm: {_ENGINE[feature]}")
    else:
        words = _ROUTER[feature]
    return dict(zip(SYSTEMS, words, strict=True))
