"""The configuration that Envoy is started with."""

from servegym.experiments.serving_routers.envoy import envoy_config


def test_all_workers_are_in_one_cluster_with_the_policy() -> None:
    config = envoy_config("least_request", ["http://10.0.0.1:8000", "http://10.0.0.2:8001"], port=9)
    (cluster,) = config["static_resources"]["clusters"]
    assert cluster["lb_policy"] == "LEAST_REQUEST"
    (group,) = cluster["load_assignment"]["endpoints"]
    assert [each["endpoint"]["address"]["socket_address"] for each in group["lb_endpoints"]] == [
        {"address": "10.0.0.1", "port_value": 8000},
        {"address": "10.0.0.2", "port_value": 8001},
    ]


def test_it_listens_on_loopback_only() -> None:
    (listener,) = envoy_config("random", ["http://10.0.0.1:8000"], port=9)["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 9}
