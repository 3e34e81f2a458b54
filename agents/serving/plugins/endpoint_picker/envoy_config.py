"""The configuration of an Envoy in front of replicas, which asks an endpoint picker about every request.

python -m servegym.agents.serving.plugins.endpoint_picker.envoy_config --replicas 10.0.0.5:8000,... >
envoy.json envoy -c envoy.json

What it says about failures, and why, stands in docs/serving/envoy.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from servegym.agents.serving.plugins.endpoint_picker.health import READINESS
from servegym.agents.serving.plugins.endpoint_picker.messages import (
    ENDPOINT,
    ENDPOINT_NAMESPACE,
    SERVED,
    SUBSET_NAMESPACE,
)
from servegym.agents.serving.routing.load_reports import address
from servegym.costmodels.errors import InputError

BODY_MODES = ("BUFFERED", "FULL_DUPLEX_STREAMED")
"""How the picker is shown requests. Envoy goes on without a picker that fails in the first mode only."""

OBSERVED = ("ends", "tokens")
"""What the picker is shown of answers: that they begin and end, or all of them."""

FORWARDED_HEADERS = ("x-request-id", "x-session-id", ":status", "content-type")
FORWARDED_PREFIX = "x-servegym-"

_TYPE = "type.googleapis.com/envoy."


@dataclass(frozen=True)
class EnvoySetup:
    """What an Envoy is told. Addresses are "host:port".

    first_byte_timeout_s: how long a replica may take to begin an answer before the request is tried
    elsewhere; must be longer than answers that are not streamed take as a whole. picker_timeout_s: how long
    the picker may take over a part. num_retries: replicas that are tried after the first one. max_requests:
    under way at a time. picker_ca: a file of PEM that the picker's certificate is checked with; None: no TLS.
    picker_name: the name in it. client_certificate, client_key: what Envoy shows the picker.
    trusts_clients: whether what clients say of their requests in FORWARDED_PREFIX is believed: a front's.
    """

    replicas: Sequence[str]
    picker: str = "127.0.0.1:9002"
    listen: str = "127.0.0.1:8080"
    admin: str | None = None
    body_mode: str = "BUFFERED"
    observed: str = "ends"
    fails_open: bool = True
    max_body_bytes: int = 4 << 20
    max_requests: int = 4096
    num_retries: int = 3
    first_byte_timeout_s: float = 120.0
    picker_timeout_s: float = 0.5
    health_path: str = "/health"
    picker_ca: str | None = None
    picker_name: str = "localhost"
    client_certificate: str | None = None
    client_key: str | None = None
    trusts_clients: bool = False

    def __post_init__(self) -> None:
        for where in (*self.replicas, self.picker, self.listen, *([self.admin] if self.admin else [])):
            address(where)
        if self.body_mode not in BODY_MODES:
            raise InputError(f"body_mode = {self.body_mode}: must be one of {', '.join(BODY_MODES)}")
        if self.observed not in OBSERVED:
            raise InputError(f"observed = {self.observed}: must be one of {', '.join(OBSERVED)}")


def envoy_config(setup: EnvoySetup) -> dict[str, Any]:
    """The bootstrap configuration, as Envoy reads it from a file of JSON."""
    config: dict[str, Any] = {
        "static_resources": {
            "listeners": [_listener(setup)],
            "clusters": [_replicas(setup), _picker(setup)],
        }
    }
    if setup.admin is not None:
        config["admin"] = {"address": _socket(setup.admin)}
    return config


def _listener(setup: EnvoySetup) -> dict[str, Any]:
    manager = {
        "@type": _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "replicas",
        "generate_request_id": True,
        "request_headers_timeout": "10s",
        "request_timeout": "60s",
        "stream_idle_timeout": "900s",
        "common_http_protocol_options": {"max_headers_count": 100, "idle_timeout": "3600s"},
        "early_header_mutation_extensions": [_without_headers_of_clients(setup)],
        "http_filters": [
            {"name": "picker", "typed_config": _ask_picker(setup)},
            {
                "name": "router",
                "typed_config": {"@type": _TYPE + "extensions.filters.http.router.v3.Router"},
            },
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "replicas",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": _route(setup)}],
                }
            ]
        },
    }
    return {
        "name": "requests",
        "address": _socket(setup.listen),
        "per_connection_buffer_limit_bytes": setup.max_body_bytes,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _without_headers_of_clients(setup: EnvoySetup) -> dict[str, Any]:
    """Clients must not say where a request goes, nor speak for a front that counts tokens."""
    removed = [{"exact": ENDPOINT}]
    if not setup.trusts_clients:
        removed.append({"prefix": FORWARDED_PREFIX})
    return {
        "name": "clients",
        "typed_config": {
            "@type": _TYPE + "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove_on_match": {"key_matcher": each}} for each in removed],
        },
    }


def _ask_picker(setup: EnvoySetup) -> dict[str, Any]:
    streamed = setup.body_mode == "FULL_DUPLEX_STREAMED"
    allowed: list[dict[str, str]] = [{"exact": name} for name in FORWARDED_HEADERS]
    return {
        "@type": _TYPE + "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
        "failure_mode_allow": setup.fails_open,
        "message_timeout": f"{setup.picker_timeout_s}s",
        "processing_mode": {
            "request_header_mode": "SEND",
            "request_body_mode": setup.body_mode,
            "request_trailer_mode": "SEND" if streamed else "SKIP",
            "response_header_mode": "SEND",
            "response_body_mode": "STREAMED" if setup.observed == "tokens" else "NONE",
            # Trailers hardly ever come; that they may keeps the picker's stream open until the answer ends.
            "response_trailer_mode": "SEND",
        },
        "forward_rules": {"allowed_headers": {"patterns": [*allowed, {"prefix": FORWARDED_PREFIX}]}},
        "metadata_options": {
            "forwarding_namespaces": {"untyped": [ENDPOINT_NAMESPACE, SUBSET_NAMESPACE]},
            "receiving_namespaces": {"untyped": [ENDPOINT_NAMESPACE]},
        },
    }


def _route(setup: EnvoySetup) -> dict[str, Any]:
    return {
        "cluster": "replicas",
        "timeout": "0s",  # answers may last
        "retry_policy": {
            # Never once an answer has begun. `reset`: a replica that went with the request not answered.
            "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
            "retriable_status_codes": [503],
            "num_retries": setup.num_retries,
            "per_try_timeout": f"{setup.first_byte_timeout_s}s",
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        },
    }


def _replicas(setup: EnvoySetup) -> dict[str, Any]:
    spread = {"name": "round_robin", "typed_config": {"@type": _LB.format("round_robin.v3.RoundRobin")}}
    picked = {
        "@type": _LB.format("override_host.v3.OverrideHost"),
        "override_host_sources": [{"metadata": _key(ENDPOINT)}],
        "selected_host_key": _key(SERVED),
        "fallback_policy": {"policies": [{"typed_extension_config": spread}]},
    }
    return {
        "name": "replicas",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": _endpoints("replicas", setup.replicas),
        "load_balancing_policy": {
            "policies": [{"typed_extension_config": {"name": "picked", "typed_config": picked}}]
        },
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": _breakers(setup),
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": setup.health_path},
            }
        ],
        "typed_extension_protocol_options": _http(
            {"explicit_http_config": {"http_protocol_options": {}}},
            # Less than servers keep idle connections: uvicorn closes them after 5 s.
            {"idle_timeout": "4s"},
        ),
    }


def _picker(setup: EnvoySetup) -> dict[str, Any]:
    cluster: dict[str, Any] = {
        "name": "picker",
        "type": "STRICT_DNS",
        "connect_timeout": "0.25s",
        "load_assignment": _endpoints("picker", [setup.picker]),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": _breakers(setup),
        "health_checks": [
            {
                # A picker that is merely busy answers late: its requests are sent on one by one.
                "timeout": "2s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": READINESS},
            }
        ],
        "typed_extension_protocol_options": _http(
            {"explicit_http_config": {"http2_protocol_options": {}}},
            {},
        ),
    }
    if setup.picker_ca is not None:
        cluster["transport_socket"] = _tls(setup)
    return cluster


def _tls(setup: EnvoySetup) -> dict[str, Any]:
    common: dict[str, Any] = {
        "validation_context": {
            "trusted_ca": {"filename": setup.picker_ca},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": setup.picker_name}}],
        },
        "alpn_protocols": ["h2"],
    }
    if setup.client_certificate is not None:
        common["tls_certificates"] = [
            {
                "certificate_chain": {"filename": setup.client_certificate},
                "private_key": {"filename": setup.client_key},
            }
        ]
    return {
        "name": "tls",
        "typed_config": {
            "@type": _TYPE + "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": setup.picker_name,
            "common_tls_context": common,
        },
    }


_LB = _TYPE + "extensions.load_balancing_policies.{}"


def _key(name: str) -> dict[str, Any]:
    return {"key": ENDPOINT_NAMESPACE, "path": [{"key": name}]}


def _breakers(setup: EnvoySetup) -> dict[str, Any]:
    most = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"thresholds": [dict.fromkeys(most, setup.max_requests)]}


def _http(protocol: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    options = "extensions.upstreams.http.v3.HttpProtocolOptions"
    value: dict[str, Any] = {"@type": _TYPE + options, **protocol}
    if common:
        value["common_http_protocol_options"] = common
    return {"envoy." + options: value}


def _endpoints(cluster: str, addresses: Sequence[str]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _socket(each)}} for each in addresses]
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]}


def _socket(where: str) -> dict[str, Any]:
    host, port = address(where)
    return {"socket_address": {"address": host, "port_value": port}}


def main(arguments: list[str] | None = None) -> int:
    """Writes the configuration to standard output. Exit status 2 where the arguments cannot be used."""
    setup = EnvoySetup(("127.0.0.1:1",))
    parser = argparse.ArgumentParser(
        prog="envoy_config", description="Envoy's configuration for an endpoint picker."
    )
    parser.add_argument("--replicas", required=True, help="ip:port,ip:port,...")
    for name, meaning in (
        ("picker", "address:port"),
        ("listen", "address:port"),
        ("admin", "address:port of Envoy's own pages; none without it"),
        ("body_mode", " or ".join(BODY_MODES)),
        ("observed", f"what the picker sees of answers: {' or '.join(OBSERVED)}"),
        ("first_byte_timeout_s", "until an answer begins, before another replica is tried"),
        ("health_path", "of replicas"),
        ("picker_ca", "PEM: the picker speaks TLS"),
        ("picker_name", "in the picker's certificate"),
        ("client_certificate", "PEM, for the picker"),
        ("client_key", "PEM"),
    ):
        default = getattr(setup, name)
        kind = float if isinstance(default, float) else str
        parser.add_argument(
            "--" + name.replace("_", "-"), type=kind, default=default, help=f"{meaning} (%(default)s)"
        )
    given = vars(parser.parse_args(arguments))
    try:
        replicas = [each for each in given.pop("replicas").split(",") if each]
        print(json.dumps(envoy_config(EnvoySetup(replicas, **given)), indent=1))
    except InputError as error:
        print(f"envoy_config: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
