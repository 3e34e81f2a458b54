"""An episode as its page has it: what it is about, and arrays of whole numbers."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from servegym.envs.metrics import SloLimits, attains_slo
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.log import IterationLog
from servegym.envs.sim.llm.phases import PHASES, phases_of
from servegym.envs.sim.llm.simulate import OUTCOMES, Results
from servegym.envs.workloads import Workload
from servegym.experiments.simulate import SimulateConfig

NEVER = 2**32 - 1
"""The tick of what did not happen."""

NOWHERE = 2**16 - 1
"""The replica of a request that was sent to none."""

MET, MISSED, NOT_PROMISED = range(3)
"""What became of a request's objective."""

MOST_KV_STEPS = 1_000_000
"""Of KV use, over all replicas; where there are more, of each few the lowest and the highest are kept."""


@dataclass(frozen=True, eq=False)
class Episode:
    """What a page shows of N requests.

    about: JSON. Times are in ticks of `about["tick_s"]` from the workload's start.
    arrays: of requests `arrival`, `scheduled`, `first_token`, `end` (finished or cancelled), uint32 (N,),
    NEVER for what did not happen; `prompt_tokens`, `output_tokens`, `hit_tokens`, `replica`, `preemptions`,
    `retries`, `migrations`, `outcome`, `objective`, `num_phases` (N,); of phases, those of request 0 first,
    `phase_start`, `phase_kind`, `phase_replica` (F,), the last one until the request's `end`; of KV use,
    replica 0 first, `kv_time` and `kv_blocks` from then on (S,), `about["replicas"]` says how many each has.
    """

    about: dict[str, Any]
    arrays: dict[str, np.ndarray]


def episode_of(scenario: Scenario, workload: Workload, results: Results, settings: SimulateConfig) -> Episode:
    """The episode of a simulation that was recorded with its log."""
    log = results.log
    assert log is not None  # recorded
    limits = scenario.slo_limits(workload)
    phases = phases_of(results, log)
    end_s = np.fmax(results.finish_s, results.cancelled_s)
    np.fmax.at(end_s, phases["request"], phases["end_s"])  # of lost requests
    last_s = max(float(np.fmax.reduce(end_s, initial=0.0)), float(log.iterations["end_s"].max(initial=0.0)))
    tick_s = 1e-6 * max(1, math.ceil(last_s / 4e3))
    series = _kv_series(log, scenario.num_replicas)
    times = {
        "arrival": results.arrival_s,
        "scheduled": results.scheduled_s,
        "first_token": results.first_token_s,
        "end": end_s,
        "phase_start": phases["start_s"],
        "kv_time": np.concatenate([time_s for time_s, _ in series]),
    }
    arrays = {name: _ticks(time_s, tick_s) for name, time_s in times.items()}
    arrays |= {
        name: getattr(results, name).astype(np.uint32)
        for name in ("prompt_tokens", "output_tokens", "hit_tokens")
    }
    arrays["kv_blocks"] = np.concatenate([blocks for _, blocks in series]).astype(np.uint32)
    arrays |= {
        name: np.minimum(getattr(results, name), 2**16 - 1).astype(np.uint16)
        for name in ("preemptions", "retries", "migrations")
    }
    num_phases = np.bincount(phases["request"], minlength=len(results.arrival_s))
    arrays |= {
        "num_phases": num_phases.astype(np.uint32),
        "replica": results.replica.astype(np.uint16),  # -1 becomes NOWHERE
        "phase_replica": phases["replica"].astype(np.uint16),
        "outcome": results.outcome.astype(np.uint8),
        "objective": _objectives(results, limits),
        "phase_kind": phases["kind"].astype(np.uint8),
    }
    members = zip(scenario.plan.replicas, scenario.roles, series, strict=True)
    about = {
        "scenario": scenario.name,
        "policies": {key: part["name"] for key, part in _policies(settings).items() if part},
        "seed": settings.seed,
        "split": settings.split,
        "source": scenario.traffic.source,
        "objective": _promise(limits),
        "tick_s": tick_s,
        "end_s": last_s,
        "phases": PHASES,
        "outcomes": OUTCOMES,
        "replicas": [
            {
                "role": role,
                "num_kv_blocks": member.engine.num_kv_blocks if member.engine else 0,
                "kv_steps": len(time_s),
            }
            for member, role, (time_s, _) in members
        ],
    }
    return Episode(about, arrays)


def _policies(settings: SimulateConfig) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in ("router", "scheduler", "rebalancer")}


def _promise(limits: SloLimits) -> str | None:
    """The objective in words; None where nothing is promised."""
    if any(np.ndim(limit) for limit in limits):
        return "by class"
    named = zip(("TTFT", "TPOT"), limits, strict=True)
    words = [f"{name} ≤ {limit:g} s" for name, limit in named if np.isfinite(limit)]
    return " and ".join(words) or None


def _objectives(results: Results, limits: SloLimits) -> np.ndarray:
    promised = np.isfinite(limits.ttft_s) | np.isfinite(limits.tpot_s)
    kept = np.where(attains_slo(results, limits), MET, MISSED)
    return np.where(promised, kept, NOT_PROMISED).astype(np.uint8)


def _ticks(time_s: np.ndarray, tick_s: float) -> np.ndarray:
    never = np.isnan(time_s)
    return np.where(never, NEVER, np.rint(np.where(never, 0.0, time_s) / tick_s)).astype(np.uint32)


def _kv_series(log: IterationLog, num_replicas: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each replica: when its KV blocks in use change, seconds, and their number from then on."""
    by_replica = np.argsort(log.iterations["replica"], kind="stable")
    ends = np.cumsum(np.bincount(log.iterations["replica"], minlength=num_replicas))
    most = max(2, MOST_KV_STEPS // num_replicas)
    parts = np.split(log.iterations[by_replica], ends[:-1])
    return [thinned(*_kv_steps(iterations), most) for iterations in parts]


def _kv_steps(iterations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At the start of every iteration; 0 from the end of one after which the replica has nothing to do."""
    idle = iterations["end_s"] < np.append(iterations["start_s"], np.inf)[1:]
    at = np.flatnonzero(idle) + 1
    time_s = np.insert(iterations["start_s"], at, iterations["end_s"][idle])
    blocks = np.insert(iterations["kv_used_blocks"], at, 0)
    changed = np.diff(blocks, prepend=0) != 0
    return time_s[changed], blocks[changed]


def thinned(time_s: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` steps: of each few that follow each other, the lowest and the highest, as they were."""
    if len(values) <= most:
        return time_s, values
    size = -(-len(values) // (most // 2))
    count = -(-len(values) // size)
    padded = np.pad(values, (0, count * size - len(values)), mode="edge").reshape(count, size)
    extremes = [padded.argmin(axis=1), padded.argmax(axis=1)]
    kept = np.unique(np.minimum(np.arange(count) * size + extremes, len(values) - 1))
    return time_s[kept], values[kept]
