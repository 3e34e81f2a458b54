"""The Shepherd Model Gateway, successor of SGLang's router (PyPI: smg).

It counts the requests under way itself, and asks workers that answer like vLLM for `/metrics` every 10 s.
"""

from servegym.experiments.serving_routers.router_family import RouterFamily, has_workers, rust_launcher

SMG = RouterFamily(
    name="smg",
    policies=("random", "round_robin", "power_of_two", "cache_aware", "least_load", "prefix_hash"),
    command=rust_launcher("smg", log_level="warn"),
    is_ready=has_workers,
)
