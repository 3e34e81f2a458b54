"""SGLang's router (PyPI: sglang-router).

As it ships, `power_of_two` compares loads that it asks the workers for every 30 s (`/get_load`); the option
`--worker-startup-check-interval` sets that period too. `cache_aware` counts the requests under way itself.
"""

from servegym.experiments.serving_routers.router_family import RouterFamily, has_workers, rust_launcher

SGLANG_ROUTER = RouterFamily(
    name="sglang-router",
    policies=("random", "round_robin", "power_of_two", "cache_aware"),
    command=rust_launcher("sglang_router", log_level="warn"),
    is_ready=has_workers,
)
