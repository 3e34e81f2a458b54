"""The schema of the scenarios of elastic sequence parallelism in `conf/scenario/`: everything but the policy.

Plain dataclasses, as those of LLM serving (envs/scenario/config.py). Values out of range raise InputError
when they are read.
"""

import math
from dataclasses import dataclass, field

from omegaconf import MISSING

from servegym.envs.scenario.config import EpisodeConfig, require
from servegym.envs.workloads.long_context import LONG_CONTEXT


@dataclass
class ElasticFleetConfig:
    """Instances that can work on one batch together, all equal, on nodes that are all equal."""

    model: str = MISSING
    gpu: str = MISSING
    tensor_parallel: int = MISSING  # GPUs of an instance
    instances: int = MISSING
    instances_per_node: int = MISSING
    kv_tokens: int = MISSING  # of an instance
    node_link_bytes_per_s: float | None = None  # of a GPU to others of its node; needed from two instances on
    far_link_bytes_per_s: float | None = None  # of a GPU to other nodes; needed from two nodes on
    decode_s: float = 0.0  # of every decode iteration; 0: composed (costmodels/elastic)

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "instances", "instances_per_node", "kv_tokens"):
            value = getattr(self, name)
            require(value == MISSING or value >= 1, f"scenario.fleet.{name}", value, "at least 1")
        at = "scenario.fleet.decode_s"
        require(0 <= self.decode_s < math.inf, at, self.decode_s, "at least 0 and finite")
        if MISSING in (self.instances, self.instances_per_node):
            return
        require(
            self.instances <= self.instances_per_node or self.instances % self.instances_per_node == 0,
            "scenario.fleet.instances",
            self.instances,
            f"at most instances_per_node ({self.instances_per_node}) or a multiple of it",
        )
        for name, needed, why in (
            ("node_link_bytes_per_s", min(self.instances, self.instances_per_node) > 1, "of one node"),
            ("far_link_bytes_per_s", self.instances > self.instances_per_node, "of several nodes"),
        ):
            rate = getattr(self, name)
            ok = 0 < rate < math.inf if rate is not None else not needed
            require(
                ok, f"scenario.fleet.{name}", rate, f"given, positive and finite: it links instances {why}"
            )


@dataclass
class ElasticWorkloadConfig:
    """Poisson arrivals, lengths of LoongServe's data sets (envs/workloads/long_context.py)."""

    lengths: str = MISSING  # sharegpt, l_eval, lv_eval, mixed, zipf
    zipf_exponent: float | None = None  # of zipf, and of no other
    rate_rps: float = MISSING  # mean requests per second
    requests: int = MISSING  # of a test workload

    def __post_init__(self) -> None:
        at = "scenario.workload"
        if self.lengths != MISSING:
            allowed = f"one of {', '.join(LONG_CONTEXT)}"
            require(self.lengths in LONG_CONTEXT, f"{at}.lengths", self.lengths, allowed)
            require(
                (self.lengths == "zipf") == (self.zipf_exponent is not None),
                f"{at}.zipf_exponent",
                self.zipf_exponent,
                "given with lengths zipf, and null with all others",
            )
        exponent = self.zipf_exponent
        ok = exponent is None or 0 <= exponent < math.inf
        require(ok, f"{at}.zipf_exponent", exponent, "at least 0 and finite")
        if self.rate_rps != MISSING:
            _require_positive(f"{at}.rate_rps", self.rate_rps)
        require(self.requests == MISSING or self.requests >= 2, f"{at}.requests", self.requests, "at least 2")


@dataclass
class ElasticSloConfig:
    """What is promised. The lines are of means over requests (LoongServe's Fig. 10 and 11), seconds a token:
    latency over prompt and output, TTFT over prompt, and TPOT. The rest is of each request (its Fig. 12)."""

    total_s: float | None = None  # null: no line
    input_s: float | None = None
    output_s: float | None = None
    ttft_times: float = 25.0  # TTFT is at most so many times the prefill alone on the whole fleet,
    ttft_least_s: float = 15.0  # or this, whichever is more
    tpot_s: float = 0.05
    attainment: float = 0.9  # share of the requests that keep both

    def __post_init__(self) -> None:
        for name in ("total_s", "input_s", "output_s"):
            if getattr(self, name) is not None:
                _require_positive(f"scenario.slo.{name}", getattr(self, name))
        for name in ("ttft_times", "ttft_least_s", "tpot_s"):
            _require_positive(f"scenario.slo.{name}", getattr(self, name))
        require(0 < self.attainment <= 1, "scenario.slo.attainment", self.attainment, "in (0, 1]")


@dataclass
class ElasticManagerConfig:
    """What LoongServe's authors set by data set and fleet; a manager takes it unless told otherwise."""

    max_requests: int = 1024  # in groups at once
    out_of_order: int = 1  # dispatches in a row in which requests may go ahead of others
    decoding_s: float = 0.022  # what it takes a decode iteration to be

    def __post_init__(self) -> None:
        for name, least in (("max_requests", 1), ("out_of_order", 0)):
            value = getattr(self, name)
            require(value >= least, f"scenario.manager.{name}", value, f"at least {least}")
        _require_positive("scenario.manager.decoding_s", self.decoding_s)


@dataclass
class ElasticObjectiveConfig:
    """What an agent pays for each request: its normalised latencies by weight, and more where it is late."""

    total_weight: float | None = None  # null: 1 over the line, or 0 without one
    input_weight: float | None = None
    output_weight: float | None = None
    late_weight: float = 1.0  # of a request that does not keep its limits of TTFT and TPOT

    def __post_init__(self) -> None:
        for name in ("total_weight", "input_weight", "output_weight", "late_weight"):
            value = getattr(self, name)
            ok = value is None or 0 <= value < math.inf
            require(ok, f"scenario.objective.{name}", value, "at least 0 and finite")


@dataclass
class ElasticScenarioConfig:
    """Schema of the scenarios of elastic sequence parallelism."""

    name: str = MISSING
    fleet: ElasticFleetConfig = field(default_factory=ElasticFleetConfig)
    workload: ElasticWorkloadConfig = field(default_factory=ElasticWorkloadConfig)
    slo: ElasticSloConfig = field(default_factory=ElasticSloConfig)
    manager: ElasticManagerConfig = field(default_factory=ElasticManagerConfig)
    objective: ElasticObjectiveConfig = field(default_factory=ElasticObjectiveConfig)
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)


def _require_positive(key: str, value: float) -> None:
    require(0 < value < math.inf, key, value, "positive and finite")
