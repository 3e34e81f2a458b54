"""What a router does, counted for Prometheus, under the names of llm-d's and gateway-api's endpoint pickers.

Dashboards and alerts made for those read these; what only we have is named `servegym_router_...`.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from servegym.agents.serving.artifact.schema import REPLICA_FEATURES
from servegym.agents.serving.routing.fleet_view import (
    AVAILABLE,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    RUNNING,
    UNSEEN_REQUESTS,
    WAITING,
)
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import REASONS, Decision
from servegym.costmodels.errors import InputError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

MODEL_LABELS = ("model_name", "target_model_name")

MAX_LABELS = 1_000
"""Values that a label may have; what comes later is `other`. Pods have new names every day."""

MAX_PRIORITY_LABEL = 10
"""Priorities beyond it, either way, are `other`: clients choose them."""

SECONDS = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60),
    *(120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600),
)
SECONDS_PER_TOKEN = (
    *(0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    *(1, 1.5, 2, 3, 4.5, 6, 12, 18, 24, 30, 36, 48, 60, 90, 120, 180, 270, 360),
)
INPUT_TOKENS = (
    *(1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32778, 65536, 131072, 262144),
    *(524288, 1048576),
)
OUTPUT_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
DECISION_SECONDS = (
    *(0.00001, 0.00002, 0.00005),  # the pickers' own begin here:
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
)
"""Bounds of buckets as in llm-d's picker (pkg/epp/metrics/metrics.go), so that histograms add up."""


class RouterMetrics:
    """An observer that counts. InputError where prometheus_client is not installed.

    model, pool: what the labels `model_name` and `name` say. registry: of prometheus_client, where the
    metrics are put; None: one of their own, so that there may be several routers in a process.

    It counts by itself and makes metrics of that when they are asked for: an object of prometheus_client for
    each would take longer than many a decision. The gauges are of the fleet as the last request saw it.
    """

    def __init__(
        self, *, model: str = "", pool: str = "servegym", registry: "CollectorRegistry | None" = None
    ) -> None:
        try:
            from prometheus_client import CollectorRegistry
        except ImportError as error:
            raise InputError(
                "metrics = true: needs prometheus_client: pip install prometheus_client"
            ) from error
        self._model, self._pool = (model, model), pool
        self._decision_s = _Histogram(DECISION_SECONDS)
        self._input_tokens, self._output_tokens = _Histogram(INPUT_TOKENS), _Histogram(OUTPUT_TOKENS)
        self._ttft_s, self._latency_s = _Histogram(SECONDS), _Histogram(SECONDS)
        self._tpot_s = _Histogram(SECONDS_PER_TOKEN)
        self._requests, self._errors, self._decisions = _Counter(), _Counter(), _Counter()
        self._fallbacks = _Counter({(reason,): 0 for reason in REASONS})  # a rate of 0 is not nothing
        self._shadow_decisions = self._shadow_agreements = 0
        self._rows = np.zeros((0, len(REPLICA_FEATURES)), np.float32)
        self.registry = CollectorRegistry() if registry is None else registry
        self.registry.register(self)

    def decided(
        self, decision: Decision, request: RoutedRequest, features: np.ndarray, replicas: np.ndarray
    ) -> None:
        """Counts a decision."""
        self._rows = replicas.copy()
        self._decision_s.observe(decision.decision_s)
        self._input_tokens.observe(request.prompt_tokens)
        self._requests.add(_priority(request.priority))
        self._decisions.add(decision.policy, decision.replica)
        if decision.fallback:
            self._fallbacks.add(decision.fallback)
        if decision.shadow:
            self._shadow_decisions += 1
            self._shadow_agreements += decision.shadow == decision.replica

    def refused(self, request: RoutedRequest) -> None:
        """Counts a request that nobody could take: it is an error too."""
        self._requests.add(_priority(request.priority))
        self._errors.add("ServiceUnavailable")

    def ended(self, request_id: str, output_tokens: int, ttft_s: float, latency_s: float, ok: bool) -> None:
        """Counts what became of a request; histograms have what is known of those that did not fail."""
        if not ok:
            self._errors.add("ModelServerError")
            return
        self._latency_s.observe(latency_s)
        if output_tokens >= 0:
            self._output_tokens.observe(output_tokens)
        if math.isnan(ttft_s):
            return
        self._ttft_s.observe(ttft_s)
        if output_tokens > 1:
            self._tpot_s.observe((latency_s - ttft_s) / (output_tokens - 1))

    def exposition(self) -> bytes:
        """All metrics of the registry in Prometheus' text format, version 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def collect(self) -> "Iterator[Metric]":
        """The metrics as they are now: what the registry asks for."""
        yield from self._histograms()
        yield from self._counters()
        yield from self._gauges()

    def _histograms(self) -> "Iterator[Metric]":
        from prometheus_client.core import HistogramMetricFamily

        time_of_decisions = HistogramMetricFamily(
            "inference_extension_scheduler_e2e_duration_seconds", "Time that decisions take."
        )
        time_of_decisions.add_metric([], *self._decision_s.buckets_and_sum())
        yield time_of_decisions
        for name, what, histogram in (
            ("input_tokens", "Tokens of prompts.", self._input_tokens),
            ("output_tokens", "Tokens of answers.", self._output_tokens),
            ("request_ttft_seconds", "From decision to first token.", self._ttft_s),
            ("request_tpot_seconds", "Between tokens after the first, on average.", self._tpot_s),
            ("request_duration_seconds", "From decision to end.", self._latency_s),
        ):
            family = HistogramMetricFamily(f"inference_objective_{name}", what, labels=MODEL_LABELS)
            family.add_metric(self._model, *histogram.buckets_and_sum())
            yield family

    def _counters(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily

        shadow = _Counter({(): self._shadow_decisions})
        agreements = _Counter({(): self._shadow_agreements})
        of_model = MODEL_LABELS
        for name, what, labels, counter in (
            ("inference_objective_request", "Requests.", (*of_model, "priority"), self._requests),
            ("inference_objective_request_error", "Failures.", (*of_model, "error_code"), self._errors),
            ("servegym_router_decisions", "By whom, where to.", ("policy", "replica"), self._decisions),
            ("servegym_router_fallbacks", "Not by the policy, why.", ("reason",), self._fallbacks),
            ("servegym_router_shadow_decisions", "Made in the shadow.", (), shadow),
            ("servegym_router_shadow_agreements", "Of these, as was done.", (), agreements),
        ):
            fixed = self._model if labels[:2] == of_model else ()
            family = CounterMetricFamily(name, what, labels=labels)
            for values, count in list(counter.counts.items()):
                family.add_metric((*fixed, *values), count)
            yield family

    def _gauges(self) -> "Iterator[Metric]":
        from prometheus_client.core import GaugeMetricFamily

        rows = self._rows
        for name, what, values in (
            ("average_queue_size", "Requests waiting.", rows[:, WAITING] + rows[:, UNSEEN_REQUESTS]),
            ("average_running_requests", "Requests running.", rows[:, RUNNING]),
            (
                "average_kv_cache_utilization",
                "Share of KV blocks in use.",
                rows[:, KV_USED_BLOCKS] / np.maximum(rows[:, KV_TOTAL_BLOCKS], 1.0),
            ),
        ):
            family = GaugeMetricFamily(f"inference_pool_{name}", f"{what} Of a replica.", labels=("name",))
            family.add_metric((self._pool,), float(values.mean()) if len(values) else 0.0)
            yield family
        ready = GaugeMetricFamily("inference_pool_ready_pods", "That may be chosen.", labels=("name",))
        ready.add_metric((self._pool,), float(np.count_nonzero(rows[:, AVAILABLE])))
        yield ready


class _Counter:
    """How often something happened, by the values of labels; `MAX_LABELS` of them at most, and `other`."""

    def __init__(self, counts: dict[tuple[str, ...], int] | None = None) -> None:
        self.counts = {} if counts is None else counts

    def add(self, *values: str) -> None:
        if values not in self.counts and len(self.counts) >= MAX_LABELS:
            values = ("other",) * len(values)
        self.counts[values] = self.counts.get(values, 0) + 1


class _Histogram:
    """How many values were at most each of `bounds`, and beyond them."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets_and_sum(self) -> tuple[list[tuple[str, float]], float]:
        bounds = [*map(str, map(float, self._bounds)), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum


def _priority(priority: float) -> str:
    return f"{priority:.0f}" if abs(priority) <= MAX_PRIORITY_LABEL else "other"
