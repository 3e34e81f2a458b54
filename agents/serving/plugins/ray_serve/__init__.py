"""Ray Serve: a policy decides which replica of a deployment a request goes to (docs/serving/ray_serve.md)."""

from servegym.agents.serving.plugins.ray_serve.request_router import ServegymRouter, request_router_config

__all__ = ["ServegymRouter", "request_router_config"]
