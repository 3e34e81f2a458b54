"""A scenario fixes everything but the router: workload, fleet, engine, cost model, objective.

The dataclasses ending in `Config` are the schema of `conf/scenario/*.yaml`; `Scenario` is what
they build. Plain dataclasses, since OmegaConf makes frozen ones read-only for Hydra itself; nobody writes
to them after composition.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from omegaconf import MISSING

from servegym.costmodels.errors import InputError
from servegym.costmodels.iteration import IterationCost, compile_iteration_cost, kv_capacity_blocks
from servegym.costmodels.specs import GPUS, MODELS
from servegym.envs.sim.llm.state import Engine
from servegym.envs.workloads import (
    FittedWorkload,
    Workload,
    find_data,
    generate,
    load_fitted,
    noisy_predictions,
    read_trace,
    split,
)


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise InputError(f"{key} = {value}: must be {allowed}")


@dataclass
class WorkloadConfig:
    """Which requests come, and when.

    A trace is scaled to `rate_rps` by compressing its time and keeping each request with probability
    `keep`, which is what differs between seeds. The factor comes from the training part alone.
    """

    trace: str | None = None  # file, or path inside the data folder; null: always generate
    format: str = "azure"  # of the trace: azure, csv
    fitted: str | None = None  # parameters of the generator used where the trace is not at hand
    arrivals: str = "gamma"  # of the generator: poisson, gamma
    rate_rps: float = MISSING  # mean requests per second
    test_s: float = 1200.0  # seconds at the end of the trace kept for testing
    keep: float = 0.9
    prediction_error: float | None = None  # mean relative error of predicted output lengths; null: none

    def __post_init__(self) -> None:
        if self.rate_rps != MISSING:
            _require(self.rate_rps > 0, "workload.rate_rps", self.rate_rps, "positive")
        _require(self.test_s > 0, "workload.test_s", self.test_s, "positive")
        _require(0 < self.keep <= 1, "workload.keep", self.keep, "in (0, 1]")
        _require(
            self.arrivals in ("poisson", "gamma"), "workload.arrivals", self.arrivals, "poisson or gamma"
        )
        error = self.prediction_error
        _require(error is None or error >= 0, "workload.prediction_error", error, "null or at least 0")


@dataclass
class FleetConfig:
    """Equal replicas: one model on one kind of GPU."""

    replicas: int = MISSING
    gpu: str = MISSING  # preset in costmodels/specs.py
    model: str = MISSING  # preset in costmodels/specs.py
    tensor_parallel: int = 1  # GPUs per replica
    memory_fraction: float = 0.9  # of GPU memory for weights and KV cache


@dataclass
class EngineConfig:
    """Limits of each replica's engine, under vLLM's names."""

    max_num_batched_tokens: int = MISSING
    max_num_seqs: int = MISSING
    block_size: int = 16
    num_kv_blocks: int | None = None  # null: what fits into the GPU's memory


@dataclass
class CostModelConfig:
    """How long an iteration takes."""

    kind: str = "roofline"
    cpu_overhead_s: float = 0.0005  # per iteration: scheduling, input preparation, output processing

    def __post_init__(self) -> None:
        _require(self.kind == "roofline", "costmodel.kind", self.kind, "roofline")
        _require(self.cpu_overhead_s >= 0, "costmodel.cpu_overhead_s", self.cpu_overhead_s, "at least 0")


@dataclass
class ObjectiveConfig:
    """What the reward adds up (seconds), see envs/routing/reward.py."""

    ttft_weight: float = MISSING
    latency_weight: float = MISSING

    def __post_init__(self) -> None:
        for key in ("ttft_weight", "latency_weight"):
            value = getattr(self, key)
            _require(value == MISSING or value >= 0, f"objective.{key}", value, "at least 0")


@dataclass
class EpisodeConfig:
    """Training episodes: stretches of the training part, starting anywhere."""

    requests: int = 1024
    rate_spread: float = 0.2  # each episode's rate is scaled by a factor in [1 - spread, 1 + spread]

    def __post_init__(self) -> None:
        _require(self.requests >= 1, "episode.requests", self.requests, "at least 1")
        _require(0 <= self.rate_spread < 1, "episode.rate_spread", self.rate_spread, "in [0, 1)")


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


class Traffic:
    """The requests of a scenario: training episodes and test workloads that share none.

    `source` says where they come from: the trace's file, or the generator's fitted parameters.
    """

    def __init__(self, config: WorkloadConfig, episode: EpisodeConfig) -> None:
        self.config = config
        self.episode = episode
        path = _trace_path(config)
        self._train: Workload | None = None
        self._test: Workload | None = None
        self._fitted: FittedWorkload | None = None
        if path is not None:
            self.source = f"trace {path.name}"
            self._train, self._test = split(read_trace(path, config.format), config.test_s)
            self._compression = config.rate_rps / (self._train.rate_rps * config.keep)
        else:
            assert config.fitted is not None  # _trace_path has seen to it
            self.source = f"generator fitted to {config.fitted}"
            self._fitted = load_fitted(config.fitted)

    def train_workload(self, seed: np.random.SeedSequence) -> Workload:
        """One training episode of `episode.requests` requests, its first arrival at 0."""
        traffic_seed, prediction_seed = seed.spawn(2)
        rng = np.random.default_rng(traffic_seed)
        spread = self.episode.rate_spread
        rate_factor = rng.uniform(1 - spread, 1 + spread)
        if self._train is None:
            workload = self._generate(self.episode.requests, rate_factor, traffic_seed)
        else:
            workload = self._stretch_of_training_part(rate_factor, rng)
        return self._with_predictions(workload, prediction_seed)

    def test_workload(self, seed: int) -> Workload:
        """The test part, thinned (or generated) with this seed."""
        test_seed = np.random.SeedSequence(seed, spawn_key=(_TEST,))
        traffic_seed, prediction_seed = test_seed.spawn(2)
        if self._test is None:
            workload = self._generate(self._num_generated_for_test(), 1.0, traffic_seed)
        else:
            rng = np.random.default_rng(traffic_seed)
            workload = self._test.thin(self.config.keep, rng).scale_rate(self._compression)
        return self._with_predictions(workload, prediction_seed)

    def max_requests(self, split: str) -> int:
        """The most requests an episode of `split` ("train" or "test") can have."""
        if split == "train":
            return self.episode.requests
        return self._num_generated_for_test() if self._test is None else self._test.num_requests

    def _num_generated_for_test(self) -> int:
        assert self._fitted is not None
        return max(1, round(self.config.test_s * self._fitted.rate_rps * self.config.keep))

    def check_fits(self, engine: Engine) -> None:
        """Raises InputError where a request of the trace could never fit into the KV cache."""
        for part in (self._train, self._test):
            if part is not None:
                part.check_fits(engine.num_kv_blocks, engine.block_size)

    def _generate(self, num_requests: int, rate_factor: float, seed: np.random.SeedSequence) -> Workload:
        assert self._fitted is not None
        cv = self._fitted.interarrival_cv if self.config.arrivals == "gamma" else 1.0
        rate_rps = self.config.rate_rps * rate_factor
        return generate(self.config.arrivals, rate_rps, cv, num_requests, self._fitted.lengths, seed)

    def _stretch_of_training_part(self, rate_factor: float, rng: np.random.Generator) -> Workload:
        """`episode.requests` requests kept from a stretch that starts anywhere."""
        assert self._train is not None
        wanted, available = self.episode.requests, self._train.num_requests
        kept = np.flatnonzero(rng.random(available) < self.config.keep)
        if len(kept) < wanted:
            raise InputError(
                f"episode.requests = {wanted}: must be at most the {len(kept)} requests "
                "kept of the training part"
            )
        first = rng.integers(len(kept) - wanted + 1)
        stretch = self._train.take(kept[first : first + wanted])
        elapsed_s = stretch.arrival_s - stretch.arrival_s[0]
        return replace(stretch, arrival_s=elapsed_s / (self._compression * rate_factor))

    def _with_predictions(self, workload: Workload, seed: np.random.SeedSequence) -> Workload:
        error = self.config.prediction_error
        if error is None:
            return workload
        rng = np.random.default_rng(seed)
        return workload.with_predictions(noisy_predictions(workload.output_tokens, error, rng))


_TEST = 1  # spawn key of test traffic; training episodes are spawned from seeds without one


def _trace_path(config: WorkloadConfig) -> Path | None:
    """The trace's file, or None where the generator stands in for it."""
    if config.trace is not None:
        if Path(config.trace).is_file():
            return Path(config.trace)
        found = find_data(config.trace)
        if found is not None:
            return found
        if config.fitted is None:
            raise InputError(
                f"workload.trace = {config.trace}: no such file, here or in the data folder "
                "(SERVEGYM_DATA, else ../shared/data), and workload.fitted names no generator to use instead"
            )
    elif config.fitted is None:
        raise InputError("workload.trace and workload.fitted are both null: one of them must be given")
    return None


class Scenario:
    """A scenario ready to run. Raises InputError for any value that does not fit the others."""

    def __init__(self, config: ScenarioConfig) -> None:
        self.config = config
        self.name = config.name
        fleet = config.fleet
        _require(fleet.gpu in GPUS, "fleet.gpu", fleet.gpu, "one of " + ", ".join(sorted(GPUS)))
        _require(fleet.model in MODELS, "fleet.model", fleet.model, "one of " + ", ".join(sorted(MODELS)))
        _require(1 <= fleet.replicas <= 4096, "fleet.replicas", fleet.replicas, "from 1 to 4096")
        gpu, model = GPUS[fleet.gpu], MODELS[fleet.model]
        num_kv_blocks = config.engine.num_kv_blocks
        if num_kv_blocks is None:
            num_kv_blocks = kv_capacity_blocks(
                model,
                gpu,
                tensor_parallel=fleet.tensor_parallel,
                memory_fraction=fleet.memory_fraction,
                block_size=config.engine.block_size,
            )
        self.engine = Engine(
            config.engine.max_num_batched_tokens,
            config.engine.max_num_seqs,
            num_kv_blocks,
            config.engine.block_size,
        )
        self.cost: IterationCost = compile_iteration_cost(
            model,
            gpu,
            tensor_parallel=fleet.tensor_parallel,
            max_num_batched_tokens=self.engine.max_num_batched_tokens,
            max_num_seqs=self.engine.max_num_seqs,
            max_kv_tokens=num_kv_blocks * self.engine.block_size,
            cpu_overhead_s=config.costmodel.cpu_overhead_s,
        )
        self.num_replicas = fleet.replicas
        self.objective = config.objective
        self.traffic = Traffic(config.workload, config.episode)
        self.traffic.check_fits(self.engine)


def load_scenario(name: str, overrides: tuple[str, ...] = ()) -> Scenario:
    """The scenario `conf/scenario/<name>.yaml`, with Hydra overrides such as `scenario.fleet.replicas=4`.

    Raises InputError for an unknown name, listing the known ones.
    """
    from servegym.envs.scenario_config import compose_scenario

    return Scenario(compose_scenario(name, overrides))
