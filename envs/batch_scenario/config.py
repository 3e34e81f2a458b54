"""The schema of the scenarios of batch serving in `conf/scenario/`: everything but the policy.

Plain dataclasses, as those of LLM serving (envs/scenario/config.py). Values out of range raise InputError
when they are read.
"""

import math
from dataclasses import dataclass, field

from omegaconf import MISSING

from servegym.envs.scenario.config import EpisodeConfig, require
from servegym.envs.workloads.batch_arrivals import ARRIVALS
from servegym.envs.workloads.readers import READERS

POPULARITIES = ("equal", "zipf", "shares")
LAWS = ("measured", "linear")


@dataclass
class ServedModelConfig:
    """A model given by its numbers: `l(b) = alpha b + beta`, or measured times, linear between.

    Joules of a batch: `e(b) = alpha_j b + beta_j`, with either way of giving times.
    """

    name: str = MISSING
    slo_ms: float = MISSING  # from a request's arrival to its answer
    alpha_ms: float | None = None  # with beta_ms, and without batch
    beta_ms: float | None = None
    batch: list[int] = field(default_factory=list)  # measured sizes, from 1 on, with latency_ms
    latency_ms: list[float] = field(default_factory=list)
    max_batch: int | None = None  # null: the largest that could be in time
    share: float = 0.0  # of the requests, with popularity=shares
    load_ms: float = 0.0  # of its weights, where GPUs have limited memory
    memory_gb: float = 0.0  # of its weights
    alpha_j: float = 0.0  # joules of each request of a batch
    beta_j: float = 0.0  # joules of each batch

    def __post_init__(self) -> None:
        key = f"scenario.models ({self.name})"
        linear = self.alpha_ms is not None and self.beta_ms is not None
        one = linear if not self.batch else self.alpha_ms is None and self.beta_ms is None
        require(one, key, "its latency", "given by alpha_ms and beta_ms, or by batch and latency_ms")
        require(
            self.max_batch is None or self.max_batch >= 1, f"{key}.max_batch", self.max_batch, "at least 1"
        )
        for name in ("alpha_j", "beta_j"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{key}.{name}", value, "at least 0 and finite")


@dataclass
class ZooConfig:
    """Models measured on one type of GPU (costmodels/zoo.py), quickest first.

    The objective of each is our rule: `slo_factor` times the latency of a batch of `slo_batch`, at least
    `min_slo_ms`. With 2 times that of 4 requests it is 19 and 77 ms for the two networks for which Symphony
    has 25 and 70 ms.
    """

    gpu: str | None = None  # null: no zoo
    count: int | None = None  # how many; beyond those there are, copies, as of fine-tuned networks; null: all
    law: str = "measured"  # or linear: alpha b + beta fitted to it
    max_batch: int = 64  # at most, and at most the largest measured
    slo_factor: float = 2.0
    slo_batch: int = 4
    min_slo_ms: float = 10.0

    def __post_init__(self) -> None:
        require(self.law in LAWS, "scenario.zoo.law", self.law, f"one of {', '.join(LAWS)}")
        require(
            self.count is None or self.count >= 1, "scenario.zoo.count", self.count, "null, or at least 1"
        )
        for key in ("max_batch", "slo_batch"):
            require(getattr(self, key) >= 1, f"scenario.zoo.{key}", getattr(self, key), "at least 1")
        for key in ("slo_factor", "min_slo_ms"):
            _require_positive(f"scenario.zoo.{key}", getattr(self, key))


@dataclass
class BatchFleetConfig:
    """The GPUs, all equal."""

    num_gpus: int = MISSING  # with an autoscaler, at most
    memory_gb: float = math.inf  # of each, for weights; inf: all models are always loaded
    initial_gpus: int | None = None  # with an autoscaler, at the start; null: all
    startup_s: float = 0.0  # with an autoscaler, until a GPU that it calls for can work

    def __post_init__(self) -> None:
        most = self.num_gpus if self.num_gpus != MISSING else math.inf
        require(most >= 1, "scenario.fleet.num_gpus", most, "at least 1")
        require(self.memory_gb > 0, "scenario.fleet.memory_gb", self.memory_gb, "above 0")
        require(
            self.initial_gpus is None or 1 <= self.initial_gpus <= most,
            "scenario.fleet.initial_gpus",
            self.initial_gpus,
            "null, or from 1 to num_gpus",
        )
        require(
            0 <= self.startup_s < math.inf,
            "scenario.fleet.startup_s",
            self.startup_s,
            "at least 0 and finite",
        )


@dataclass
class DelaysConfig:
    """Between scheduler, GPUs and clients; Symphony's are 0.1, 0.05 and 2 ms."""

    control_ms: float = 0.0  # from sending a batch until its GPU knows of it
    data_ms: float = 0.0  # more for each request of it
    response_ms: float = 0.0  # from the end of a batch to the client


@dataclass
class BatchWorkloadConfig:
    """Which requests come, and when (envs/workloads/batch_arrivals.py).

    A test workload has `requests` requests, or as many as come in `seconds` on average. A trace gives arrival
    times only; it is brought to `rate_rps` as in LLM serving.
    """

    rate_rps: float = MISSING  # mean requests per second of all models
    requests: int | None = None
    seconds: float | None = None  # instead of requests
    arrivals: str = "poisson"  # poisson, gamma, constant; of each model
    shape: float = 1.0  # of gamma: 1 / cv^2 of the gaps
    popularity: str = "equal"  # zipf, or shares: as the models say
    zipf_exponent: float = 1.0
    profile: str | None = None  # of the rate through time, one of envs/workloads/profiles; null: even
    period_s: float | None = None  # how long it takes; null: once in all
    trace: str | None = None  # instead of arrivals: file, or path inside the data folder
    format: str = "azure"  # of the trace
    test_s: float = 1200.0  # seconds at the end of the trace kept for testing
    keep: float = 0.9  # probability to keep a request of the trace

    def __post_init__(self) -> None:
        at = "scenario.workload"
        if self.rate_rps != MISSING:
            _require_positive(f"{at}.rate_rps", self.rate_rps)
        require(
            self.requests is None or self.requests >= 2,
            f"{at}.requests",
            self.requests,
            "null, or at least 2",
        )
        for key in ("seconds", "period_s"):
            value = getattr(self, key)
            require(
                value is None or 0 < value < math.inf, f"{at}.{key}", value, "null, or above 0 and finite"
            )
        for key, allowed in (
            ("arrivals", ARRIVALS),
            ("popularity", POPULARITIES),
            ("format", tuple(READERS)),
        ):
            value = getattr(self, key)
            require(value in allowed, f"{at}.{key}", value, f"one of {', '.join(allowed)}")
        for key in ("shape", "test_s"):
            _require_positive(f"{at}.{key}", getattr(self, key))
        require(
            self.arrivals == "gamma" or self.shape == 1, f"{at}.shape", self.shape, "1, or arrivals gamma"
        )
        require(0 <= self.zipf_exponent < math.inf, f"{at}.zipf_exponent", self.zipf_exponent, "at least 0")
        require(0 < self.keep <= 1, f"{at}.keep", self.keep, "in (0, 1]")
        require(
            self.trace is None or self.profile is None,
            f"{at}.profile",
            self.profile,
            "null with a trace, which has its own",
        )


@dataclass
class BatchObjectiveConfig:
    """What the reward adds up beside 1 for each bad request (envs/deferred_batching)."""

    gpu_weight: float = 0.0  # of each second that a GPU is in use
    energy_weight: float = 0.0  # of each joule

    def __post_init__(self) -> None:
        for key in ("gpu_weight", "energy_weight"):
            value = getattr(self, key)
            require(0 <= value < math.inf, f"scenario.objective.{key}", value, "at least 0 and finite")


@dataclass
class BatchScenarioConfig:
    """Schema of the scenarios of batch serving. Their models are listed, or those of the zoo."""

    name: str = MISSING
    models: list[ServedModelConfig] = field(default_factory=list)
    zoo: ZooConfig = field(default_factory=ZooConfig)
    fleet: BatchFleetConfig = field(default_factory=BatchFleetConfig)
    delays: DelaysConfig = field(default_factory=DelaysConfig)
    workload: BatchWorkloadConfig = field(default_factory=BatchWorkloadConfig)
    objective: BatchObjectiveConfig = field(default_factory=BatchObjectiveConfig)
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)


def _require_positive(key: str, value: float) -> None:
    require(0 < value < math.inf, key, value, "positive and finite")
