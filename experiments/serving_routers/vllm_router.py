"""vLLM's router in Rust (PyPI: vllm-router).

`cache_aware` has every worker tokenize every prompt (`/v1/completions/render`, else `/tokenize`), and goes by
load alone where they cannot. `power_of_two` counts the requests under way itself. `consistent_hash` sends all
requests with the same header `x-session-id` or `x-user-id` to one worker.
"""

from servegym.experiments.serving_routers.router_family import RouterFamily, has_workers, rust_launcher

VLLM_ROUTER = RouterFamily(
    name="vllm-router",
    policies=("round_robin", "power_of_two", "cache_aware", "consistent_hash"),
    command=rust_launcher("vllm_router", log_level="warning"),
    is_ready=has_workers,
)
