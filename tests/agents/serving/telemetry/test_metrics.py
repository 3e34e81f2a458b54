"""What is counted, under which names."""

import sys
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from servegym.agents.serving.contracts import UNKNOWN
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import NoReplicaError, Router
from servegym.agents.serving.telemetry.metrics import MAX_LABELS, RouterMetrics
from servegym.costmodels.errors import InputError


class Always:
    """Likes the first replica best, or raises."""

    name = "always"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        if self.error is not None:
            raise self.error
        return -np.arange(len(replicas), dtype=np.float32)


def _counted(metrics: RouterMetrics) -> dict[str, float]:
    """By name and the values of labels but the model's: `name{a,b}`."""
    counted = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            said = {name: value for name, value in sample.labels.items() if "model_name" not in name}
            labels = ",".join(said.values())
            counted[sample.name + (f"{{{labels}}}" if said else "")] = sample.value
    return counted


class Clock:
    """Stands still until it is told."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_requests_are_counted_from_decision_to_end() -> None:
    metrics, clock = RouterMetrics(model="llama", pool="mine"), Clock()
    router = Router(Always(), FleetView("abc"), observers=[metrics], deadline_s=None, clock=clock)
    router.report("a", {"waiting": 3, "running": 6, "kv_used_blocks": 50, "kv_total_blocks": 100})
    for i in range(3):
        router.route(RoutedRequest(str(i), 100.0 + i, priority=1.0))
    clock.now_s = 0.3
    router.tokens("0")
    clock.now_s = 2.3
    router.tokens("0", 4)
    router.ended("0")
    router.ended("1", ok=False)
    counted = _counted(metrics)
    assert counted["inference_objective_request_total{1}"] == 3
    assert counted["inference_objective_request_error_total{ModelServerError}"] == 1
    assert counted["inference_objective_input_tokens_sum"] == 303
    assert counted["inference_objective_output_tokens_sum"] == 5
    assert counted["inference_objective_request_ttft_seconds_sum"] == pytest.approx(0.3)
    assert counted["inference_objective_request_tpot_seconds_sum"] == pytest.approx(0.5)
    assert counted["inference_objective_request_duration_seconds_sum"] == pytest.approx(2.3)
    assert counted["inference_objective_request_duration_seconds_count"] == 1
    assert counted["inference_extension_scheduler_e2e_duration_seconds_count"] == 3
    assert counted["servegym_router_decisions_total{always,a}"] == 3
    assert b'ttft_seconds_count{model_name="llama",target_model_name="llama"} 1.0' in metrics.exposition()
    assert counted["inference_pool_ready_pods{mine}"] == 3
    # The last request saw three waiting at a, and the two before it unseen.
    assert counted["inference_pool_average_queue_size{mine}"] == pytest.approx(5 / 3)
    assert counted["inference_pool_average_running_requests{mine}"] == 2
    assert counted["inference_pool_average_kv_cache_utilization{mine}"] == pytest.approx(0.5 / 3)


def test_tokens_and_times_that_are_not_known_are_not_counted() -> None:
    metrics, clock = RouterMetrics(), Clock()
    router = Router(Always(), FleetView("ab"), observers=[metrics], deadline_s=None, clock=clock)
    for name in ("unseen", "counted"):
        router.route(RoutedRequest(name, 10.0))
    clock.now_s = 2.0
    router.began("unseen")
    router.tokens("counted", 20, just_now=False)
    for name in ("unseen", "counted"):
        router.ended(name)
    counted = _counted(metrics)
    assert counted["inference_objective_output_tokens_count"] == 1
    assert counted["inference_objective_output_tokens_sum"] == 20
    assert counted["inference_objective_request_ttft_seconds_count"] == 0
    assert counted["inference_objective_request_tpot_seconds_count"] == 0
    assert counted["inference_objective_request_duration_seconds_count"] == 2


def test_fallbacks_refusals_and_the_shadow_are_counted() -> None:
    metrics, policy = RouterMetrics(), Always()
    router = Router(policy, FleetView("ab"), observers=[metrics], deadline_s=None, shadow=True)
    for i in range(4):  # it would always take a; the fallback goes round
        router.route(RoutedRequest(str(i), 1.0))
    counted = _counted(metrics)
    assert counted["servegym_router_shadow_decisions_total"] == 4
    assert counted["servegym_router_shadow_agreements_total"] == 2
    assert counted["servegym_router_fallbacks_total{raised}"] == 0
    policy.error = RuntimeError("broken")
    router.route(RoutedRequest("5", 1.0))
    for name in "ab":
        router.set_available(name, False)
    with pytest.raises(NoReplicaError):
        router.route(RoutedRequest("6", 1.0))
    counted = _counted(metrics)
    assert counted["servegym_router_fallbacks_total{raised}"] == 1
    assert counted["servegym_router_shadow_decisions_total"] == 4
    assert counted["inference_objective_request_error_total{ServiceUnavailable}"] == 1
    assert counted["inference_objective_request_total{0}"] == 6


def test_names_and_priorities_that_clients_or_time_make_up_do_not_fill_the_memory() -> None:
    metrics = RouterMetrics()
    fleet = FleetView(["pod-0"])
    router = Router(Always(), fleet, observers=[metrics], deadline_s=None)
    for i in range(MAX_LABELS + 50):
        router.set_replicas([f"pod-{i}"])
        router.route(RoutedRequest(str(i), 1.0, priority=float(i - 500)))
        router.ended(str(i))
    counted = _counted(metrics)
    assert counted["servegym_router_decisions_total{other,other}"] == 50
    assert sum(name.startswith("servegym_router_decisions_total") for name in counted) == MAX_LABELS + 1
    assert sum(name.startswith("inference_objective_request_total") for name in counted) == 22
    assert counted["inference_objective_request_total{other}"] == MAX_LABELS + 50 - 21


def test_two_routers_in_a_process_and_one_registry_for_somebody_elses_page() -> None:
    for metrics in (RouterMetrics(), RouterMetrics()):
        Router(Always(), FleetView("ab"), observers=[metrics], deadline_s=None).route(RoutedRequest("0", 1.0))
        assert _counted(metrics)["servegym_router_decisions_total{always,a}"] == 1
    registry = CollectorRegistry()
    assert RouterMetrics(registry=registry).registry is registry


def test_without_prometheus_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "prometheus_client", missing)
    with pytest.raises(InputError, match="pip install prometheus_client"):
        RouterMetrics()
