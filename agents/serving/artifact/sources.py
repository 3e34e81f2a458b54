"""Where each number that a policy reads comes from in each serving system, in words for whoever installs it.

Where a system does not know a number, what stands in for it is said. "own books": the router's own account of
what it sent where and what came back (routing/fleet_view.py), the same whatever the system.
"""

SYSTEMS = ("vllm", "ray_serve", "envoy", "litellm", "sglang")
"""vllm, sglang: as the engine that reports, to whatever router; the others: as the router that asks."""

_BOOKS = "own books"
_OPERATOR = "set by the operator (servegym deploy)"


def _reported(by_vllm: str | None, otherwise: str = _BOOKS) -> tuple[str, ...]:
    """Of what a replica may report. by_vllm: what vLLM says without our plugin; None: nothing."""
    plugin = "GET /load of our plugin"
    of_vllm = plugin if by_vllm is None else f"{plugin}, or {by_vllm}"
    asked = f"GET /load of a replica; else {otherwise}"
    if by_vllm is not None:
        asked = f"GET /load of a replica, or {by_vllm}; else {otherwise}"
    return (f"{of_vllm}; else {otherwise}", f"routing_stats; else {otherwise}", asked, asked, otherwise)


_ROUTER = {
    "request.prompt_tokens": (
        "what a front counted (x-servegym-prompt-tokens), else bytes of the prompt / 4",
        "as vllm, of the first argument",
        "as vllm, of the buffered body",
        "as vllm, of messages",
        "as vllm",
    ),
    "request.predicted_output_tokens": (
        "what a predictor says (x-servegym-predicted-output-tokens); 0: nobody predicts",
    )
    * 5,
    "request.gap_s": ("time since the request before at this router",) * 5,
    "request.priority": ("priority in the body; 0", "as vllm", "as vllm", "as vllm", "as vllm"),
    "replicas.available": (
        "answers GET /load or /metrics",
        "among the candidates, and its routing_stats do not deny it",
        "answers GET /load or /metrics",
        "not in cooldown, and answers GET /load or /metrics",
        "answers GET /load or /metrics",
    ),
    "replicas.running": _reported("vllm:num_requests_running"),
    "replicas.waiting": _reported("vllm:num_requests_waiting"),
    "replicas.queued_prefill_tokens": _reported(None),
    "replicas.outstanding_tokens": _reported(None),
    "replicas.decode_context_tokens": _reported(None),
    "replicas.kv_used_blocks": _reported("vllm:kv_cache_usage_perc * blocks"),
    "replicas.kv_total_blocks": _reported("vllm:cache_config_info, num_gpu_blocks", _OPERATOR),
    "replicas.iteration_left_s": _reported(None, "0"),
    "replicas.predicted_remaining_tokens": _reported(None),
    "replicas.kv_released_per_iteration": _reported(None, "0"),
    "replicas.prefix_hit_tokens": ("prefixes in own books",) * 5,
    "replicas.speed": _reported(None, "1"),
    "replicas.unseen_requests": ("sent since the last report, own books",) * 5,
    "replicas.unseen_prefill_tokens": ("sent since the last report, own books",) * 5,
    "setting.overhead_s": (f"{_OPERATOR}, of a cost model",) * 5,
    "setting.s_per_prefill_token": (f"{_OPERATOR}, of a cost model",) * 5,
    "setting.s_per_decode": (f"{_OPERATOR}, of a cost model",) * 5,
    "setting.s_per_context_token": (f"{_OPERATOR}, of a cost model",) * 5,
    "setting.token_budget": (f"{_OPERATOR}: --max-num-batched-tokens of vLLM, or its like",) * 5,
    "setting.block_size": (f"{_OPERATOR}: --block-size of vLLM, or its like",) * 5,
    "setting.mean_output_tokens": (f"{_OPERATOR}, of the scenario's traffic",) * 5,
    "setting.ttft_weight": (_OPERATOR,) * 5,
    "setting.latency_weight": (_OPERATOR,) * 5,
    "level": ("0 in a router, 1 in a scheduler",) * 5,
}

_ENGINE = {
    "engine.running": "len(scheduler.running)",
    "engine.waiting": "len(scheduler.waiting)",
    "engine.decoding": "running requests whose prompt is computed",
    "engine.admitted": "admitted by this plan so far",
    "engine.queued_prefill_tokens": "tokens of waiting and running requests not computed",
    "engine.outstanding_tokens": "known tokens of waiting and running requests",
    "engine.decode_context_tokens": "num_computed_tokens of decodes, summed",
    "engine.kv_used_blocks": "blocks in use of the block pool",
    "engine.kv_total_blocks": "blocks of the block pool",
    "engine.unclaimed_tokens": "token budget less what running requests take",
    "engine.unclaimed_blocks": "free blocks of the block pool less what running requests take",
    "engine.seats_left": "max_num_active_reqs less running",
    "engine.predicted_remaining_tokens": "predicted output less generated, of all requests, at least 0",
    "requests.is_waiting": "in the waiting queue",
    "requests.is_prefilling": "running, prompt not computed",
    "requests.is_decoding": "running, prompt computed",
    "requests.prompt_tokens": "num_prompt_tokens",
    "requests.known_tokens": "num_tokens",
    "requests.computed_tokens": "num_computed_tokens",
    "requests.predicted_output_tokens": "predicted_output_tokens of vllm_xargs / custom_params; 0: unknown",
    "requests.generated_tokens": "num_output_tokens",
    "requests.since_arrival_s": "now - arrival_time",
    "requests.priority": "priority",
    "requests.blocks": "blocks that its tokens need",
    "requests.legal": "its blocks, seat and tokens are free",
}
"""In vLLM's scheduler; SGLang's engine hook reads the same of its queues, and routers decide none of this."""


def sources(feature: str) -> dict[str, str]:
    """By system, of `INPUT.FEATURE`."""
    words: tuple[str, ...]
    if feature in _ENGINE:
        router = "not decided in a router"
        words = (_ENGINE[feature], router, router, router, f"as vllm: {_ENGINE[feature]}")
    else:
        words = _ROUTER[feature]
    return dict(zip(SYSTEMS, words, strict=True))
