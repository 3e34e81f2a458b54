"""The schema of `conf/scenario/*.yaml`: everything but the policy.

Plain dataclasses, since OmegaConf makes frozen ones read-only for Hydra itself; nobody writes to them after
composition. Values out of range raise InputError when they are read.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from servegym.costmodels.errors import InputError
from servegym.envs.scenario.fleet_config import FleetConfig
from servegym.envs.workloads.learned_predictor import LearnedPredictor
from servegym.envs.workloads.predictors import PREDICTORS
from servegym.envs.workloads.readers import READERS

_PREDICTORS: dict[str, Callable[..., Any]] = {**PREDICTORS, "learned": LearnedPredictor.load}
"""By name, what takes their parameters."""


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raises InputError `key = value: must be allowed` unless the condition holds."""
    if not condition:
        raise InputError(f"{key} = {value}: must be {allowed}")


def _require_positive(key: str, value: float) -> None:
    require(0 < value < math.inf, key, value, "positive and finite")


@dataclass
class SloClassConfig:
    """A class of requests and what it is promised; inf promises nothing."""

    name: str = MISSING
    share: float = MISSING  # of the requests; the shares of all classes add up to 1
    ttft_s: float = math.inf  # above 0
    tpot_s: float = math.inf  # above 0


@dataclass
class ClientsConfig:
    """What clients ask beside prompts and outputs, drawn independently for each request; and sessions."""

    cancel_share: float = 0.0  # of the requests, in [0, 1]: their clients give up after a while
    mean_patience_s: float = 60.0  # of these clients, exponentially distributed; above 0
    priority_shares: list[float] = field(default_factory=list)  # of priority 0 (most urgent), 1, ...; sum 1
    tenant_shares: list[float] = field(default_factory=list)  # of the requests of client 0, 1, ...; sum 1
    slo_classes: list[SloClassConfig] = field(default_factory=list)  # none: objective's limits for all
    image_share: float = 0.0  # of the requests, in [0, 1]: images come before their prompt
    image_tokens: int = 576  # that these images add to the prompt, at least 1
    session_turns: float = 1.0  # mean requests in a session, at least 1; 1: each is one by itself
    mean_think_s: float = 10.0  # from an answer to the follow-up, exponentially distributed; above 0

    def __post_init__(self) -> None:
        for key in ("cancel_share", "image_share"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"scenario.workload.clients.{key}", value, "in [0, 1]")
        for key in ("mean_patience_s", "mean_think_s"):
            _require_positive(f"scenario.workload.clients.{key}", getattr(self, key))
        require(
            1 <= self.session_turns < math.inf,
            "scenario.workload.clients.session_turns",
            self.session_turns,
            "at least 1 and finite",
        )
        require(
            self.image_tokens >= 1,
            "scenario.workload.clients.image_tokens",
            self.image_tokens,
            "at least 1",
        )
        _require_shares("scenario.workload.clients.priority_shares", self.priority_shares)
        _require_shares("scenario.workload.clients.tenant_shares", self.tenant_shares)
        _require_shares("scenario.workload.clients.slo_classes", [each.share for each in self.slo_classes])
        for number, each in enumerate(self.slo_classes):
            for key in ("ttft_s", "tpot_s"):
                value = getattr(each, key)
                require(value > 0, f"scenario.workload.clients.slo_classes[{number}].{key}", value, "above 0")


def _require_shares(key: str, shares: list[float]) -> None:
    require(
        not shares or (min(shares) >= 0 and math.isclose(sum(shares), 1.0, abs_tol=1e-9)),
        key,
        shares,
        "shares of at least 0 that add up to 1",
    )


@dataclass
class WorkloadConfig:
    """Which requests come, and when.

    A trace is scaled to `rate_rps` by compressing its time and keeping each request with probability
    `keep`, which is what differs between seeds. The factor comes from the training part alone.
    With a profile, `rate_rps` is the mean over a period; test workloads begin with the period, and training
    episodes anywhere in it, each request of it being as likely the first.
    """

    trace: str | None = None  # file, or path inside the data folder; null: always generate
    format: str = "azure"  # of the trace, one of READERS
    fitted: str | None = None  # parameters of the generator used where the trace is not at hand
    arrivals: str = "gamma"  # of the generator: poisson, gamma
    profile: str | None = None  # of its rate through time, one of envs/workloads/profiles; null: even
    period_s: float | None = None  # how long the profile takes, above 0
    rate_rps: float = MISSING  # mean requests per second
    test_s: float = 1200.0  # seconds at the end of the trace kept for testing
    keep: float = 0.9
    predictor: str | None = None  # of output lengths, `learned` or one of PREDICTORS; null: none
    predictor_parameters: dict[str, Any] = field(default_factory=dict)
    prediction_error: float | None = None  # instead: mean relative error of the predictor `noisy`
    prediction_refinement: float | None = None  # predictions get better by this while tokens come; null: stay

    clients: ClientsConfig = field(default_factory=ClientsConfig)

    def __post_init__(self) -> None:
        if self.rate_rps != MISSING:
            _require_positive("scenario.workload.rate_rps", self.rate_rps)
        _require_positive("scenario.workload.test_s", self.test_s)
        require(
            self.format in READERS, "scenario.workload.format", self.format, "one of " + ", ".join(READERS)
        )
        require(0 < self.keep <= 1, "scenario.workload.keep", self.keep, "in (0, 1]")
        require(
            self.arrivals in ("poisson", "gamma"),
            "scenario.workload.arrivals",
            self.arrivals,
            "poisson or gamma",
        )
        require(
            self.profile is None or self.trace is None,
            "scenario.workload.profile",
            self.profile,
            "null with a trace, which has its own",
        )
        require(
            (self.profile is None) == (self.period_s is None),
            "scenario.workload.period_s",
            self.period_s,
            "given with a profile, and only then",
        )
        if self.period_s is not None:
            _require_positive("scenario.workload.period_s", self.period_s)
        error = self.prediction_error
        require(
            error is None or 0 <= error < 2,
            "scenario.workload.prediction_error",
            error,
            "null, or at least 0 and below 2",
        )
        require(
            self.predictor is None or self.predictor in _PREDICTORS,
            "scenario.workload.predictor",
            self.predictor,
            "null, or one of " + ", ".join(_PREDICTORS),
        )
        require(
            error is None or self.predictor is None,
            "scenario.workload.prediction_error",
            error,
            "null where predictor is given",
        )
        refinement = self.prediction_refinement
        require(
            refinement is None or 0 < refinement <= 1,
            "scenario.workload.prediction_refinement",
            refinement,
            "null, or in (0, 1]",
        )
        require(
            refinement is None or error is not None or self.predictor is not None,
            "scenario.workload.prediction_refinement",
            refinement,
            "null without a predictor",
        )
        self._check_predictor_parameters()

    def _check_predictor_parameters(self) -> None:
        given = self.predictor_parameters
        known: list[str] = []
        if self.predictor is not None:
            parameters = list(inspect.signature(_PREDICTORS[self.predictor]).parameters.values())
            own = [one for one in parameters if one.name not in ("output_tokens", "rng")]
            known = [one.name for one in own]
            for one in own:
                require(
                    one.default is not one.empty or one.name in given,
                    "scenario.workload.predictor_parameters",
                    given,
                    f"given {one.name}, which {self.predictor} needs",
                )
        for name in given:
            require(
                name in known,
                "scenario.workload.predictor_parameters",
                name,
                f"one of {', '.join(known)}" if known else "none",
            )


@dataclass
class EngineConfig:
    """Limits and rules of each replica's engine: docs/simulator.md, "Engine settings"."""

    max_num_batched_tokens: int = MISSING
    max_num_seqs: int = MISSING
    block_size: int = 16
    num_kv_blocks: int | None = None  # null: what fits into the GPU's memory
    scheduler: str = "vllm_v1"
    order: str = "fcfs"  # or priority
    prefix_caching: bool = False
    long_prefill_token_threshold: int = 0  # 0: off
    reserve_full_prompt: bool = True
    watermark: float | None = None  # null: 0.01 with sarathi and vllm_v0, else 0
    max_padded_prefill_tokens: int = 0  # 0: off
    preemption: str = "recompute"  # or swap
    swap_blocks: int = 0
    swap_s_per_block: float = 0.0
    max_model_len: int = 0  # 0: none
    decodes_between_prefills: int = 10
    reserved_output_share: float = 0.0  # 0: as vLLM
    swap_ahead_blocks: int = 0  # 0: off


@dataclass
class CostModelConfig:
    """How long an iteration takes."""

    kind: str = "roofline"  # one of clocks.CLOCKS
    cpu_overhead_s: float = 0.0005  # per iteration: scheduling, input preparation, output processing

    def __post_init__(self) -> None:
        require(
            0 <= self.cpu_overhead_s < math.inf,
            "scenario.costmodel.cpu_overhead_s",
            self.cpu_overhead_s,
            "at least 0 and finite",
        )


@dataclass
class ObjectiveConfig:
    """What the reward adds up, see envs/routing/reward.py and envs/batching/reward.py."""

    ttft_weight: float = MISSING
    latency_weight: float = MISSING
    tpot_weight: float = 0.0  # of the seconds between first and last tokens
    throughput_weight: float = 0.0  # gained with every request that finishes
    slo_weight: float = 0.0  # goodput: gained with every request that finishes within both limits
    energy_weight: float = 0.0  # of each joule
    measure_energy: bool = False  # joules in the metrics of an episode even where they weigh nothing
    slo_ttft_s: float = 1.0
    slo_tpot_s: float = 0.05
    charge_expected_wait: bool = True  # pay for a wait when it begins; the return is the same

    def __post_init__(self) -> None:
        for key in (
            "ttft_weight",
            "latency_weight",
            "tpot_weight",
            "throughput_weight",
            "slo_weight",
            "energy_weight",
        ):
            value = getattr(self, key)
            if value != MISSING:
                require(0 <= value < math.inf, f"scenario.objective.{key}", value, "at least 0 and finite")
        for key in ("slo_ttft_s", "slo_tpot_s"):
            _require_positive(f"scenario.objective.{key}", getattr(self, key))


@dataclass
class EpisodeConfig:
    """Training episodes: stretches of the training part, starting anywhere."""

    requests: int = 1024
    rate_spread: float = 0.2  # each episode's rate is scaled by a factor in [1 - spread, 1 + spread]

    def __post_init__(self) -> None:
        require(self.requests >= 1, "scenario.episode.requests", self.requests, "at least 1")
        require(0 <= self.rate_spread < 1, "scenario.episode.rate_spread", self.rate_spread, "in [0, 1)")


@dataclass
class ScenarioConfig:
    """Schema of `conf/scenario/*.yaml`."""

    name: str = MISSING
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    costmodel: CostModelConfig = field(default_factory=CostModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
