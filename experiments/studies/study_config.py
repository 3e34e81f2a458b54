"""The schema of `conf/study.yaml`."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from servegym.costmodels.errors import InputError
from servegym.envs.scenario.config import ScenarioConfig, require
from servegym.envs.scenario.stream import SPLITS

WHEREABOUTS = ("out", "backend", "workers", "address")
"""Keys that change nothing in the results, so that they may differ when a study goes on."""

SHARD_REQUESTS = 1_000_000
"""At most about so many go into a shard, unless the configuration says otherwise: seconds of work, 50 MB."""

SHARDS = 64
"""At least so many, where there are as many episodes: something for each of several workers."""


@dataclass
class StudyConfig:
    """Schema of `conf/study.yaml`."""

    scenario: ScenarioConfig = MISSING
    router: Any = MISSING
    rebalancer: Any = None
    scheduler: Any = None
    split: str = "test"
    episodes: int = 100
    episode_requests: int = 10_000
    seed: int = 0
    keep: str = "requests"  # or episodes
    shard_episodes: int | None = None  # null: what SHARD_REQUESTS and SHARDS say
    backend: str = "local"  # or ray
    workers: int | None = None  # at a time; null: one for each processor
    address: str | None = None  # of a Ray cluster; null: a cluster on this machine, for this study
    out: str = MISSING

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed = {self.seed}: must be at least 0")
        for key in ("episodes", "episode_requests", "shard_episodes", "workers"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "at least 1")
        for key, allowed in (
            ("split", SPLITS),
            ("keep", ("requests", "episodes")),
            ("backend", ("local", "ray")),
        ):
            value = getattr(self, key)
            require(value in allowed, key, value, f"one of {', '.join(allowed)}")
        require(
            self.address is None or self.backend == "ray", "address", self.address, "null but for backend=ray"
        )

    @property
    def episodes_in_shard(self) -> int:
        """Of every shard but the last, which may have fewer."""
        most = min(SHARD_REQUESTS // self.episode_requests, self.episodes // SHARDS)
        return self.shard_episodes or max(1, most)
