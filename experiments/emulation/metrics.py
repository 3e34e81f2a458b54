"""What a worker counts, and its page of metrics: Prometheus text under vLLM's names.

Seconds are the model's.
"""

from bisect import bisect_left
from collections.abc import Iterable

from servegym.experiments.emulation.fleet import ReplicaCounts

TTFT_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
LATENCY_BUCKETS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""vLLM's."""


class Histogram:
    """How many values were at most each bound, their number and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Its samples."""
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
        yield f"{name}_count{{{labels}}} {total}"
        yield f"{name}_sum{{{labels}}} {self._sum!r}"


class WorkerMetrics:
    """What one worker has answered so far."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.num_finished = 0
        self._ttft_s = Histogram(TTFT_BUCKETS_S)
        self._latency_s = Histogram(LATENCY_BUCKETS_S)

    def first_token(self, prompt_tokens: int, ttft_s: float) -> None:
        """A request has got its first token."""
        self.prompt_tokens += prompt_tokens
        self._ttft_s.observe(ttft_s)

    def tokens(self, count: int) -> None:
        """Tokens were sampled."""
        self.generation_tokens += count

    def finished(self, latency_s: float) -> None:
        """A request has got its last token."""
        self.num_finished += 1
        self._latency_s.observe(latency_s)

    def page(
        self, report: dict[str, float], counts: ReplicaCounts, *, model: str, engine: int, block_size: int
    ) -> str:
        """The page; report: what `GET /load` says, all of which is there as `servegym:NAME`, too."""
        labels = f'engine="{engine}",model_name="{model}"'
        lines: list[str] = []

        def add(kind: str, name: str, purpose: str, value: float, more: str = "") -> None:
            sample = f"{name}_total" if kind == "counter" else name
            lines.extend((f"# HELP {sample} {purpose}", f"# TYPE {sample} {kind}"))
            lines.append(f"{sample}{{{labels}{more}}} {value!r}")

        used, total = report["kv_used_blocks"], report["kv_total_blocks"]
        add("gauge", "vllm:num_requests_running", "Requests in the batch.", report["running"])
        add("gauge", "vllm:num_requests_waiting", "Requests that wait.", report["waiting"])
        add("gauge", "vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", used / total)
        add(
            "counter",
            "vllm:prefix_cache_queries",
            "Tokens looked up in the prefix cache.",
            counts.prefix_queries,
        )
        add("counter", "vllm:prefix_cache_hits", "Tokens found there.", counts.prefix_hits)
        add("counter", "vllm:num_preemptions", "Preemptions.", counts.preemptions)
        add("counter", "vllm:prompt_tokens", "Prompt tokens processed.", self.prompt_tokens)
        add("counter", "vllm:generation_tokens", "Tokens generated.", self.generation_tokens)
        add(
            "counter",
            "vllm:request_success",
            "Requests that have finished.",
            self.num_finished,
            ',finished_reason="length"',
        )
        sizes = f',block_size="{block_size}",num_gpu_blocks="{int(total)}"'
        add("gauge", "vllm:cache_config_info", "Sizes of the KV cache.", 1.0, sizes)
        for name, purpose, histogram in (
            ("vllm:time_to_first_token_seconds", "From arrival to first token.", self._ttft_s),
            ("vllm:e2e_request_latency_seconds", "From arrival to last token.", self._latency_s),
        ):
            lines += [f"# HELP {name} {purpose}", f"# TYPE {name} histogram"]
            lines += histogram.lines(name, labels)
        for name, value in report.items():
            add("gauge", f"servegym:{name}", "Of GET /load.", value)
        return "\n".join(lines) + "\n"
