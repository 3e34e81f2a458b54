"""What an engine did, in one form for vLLM and for our simulators."""

from typing import Any, NamedTuple

import numpy as np

from servegym.agents.heuristics import make_router
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.identities import identities_of
from servegym.envs.sim.llm.log import IterationLog, counting_log, recording_log
from servegym.envs.sim.llm.router import random_state
from servegym.envs.sim.llm.setup import ReplicaSpec, fleet_with
from servegym.envs.sim.llm.simulate import route_function, run_out
from servegym.envs.workloads import Workload
from tests.reference import llm as reference
from tests.witness.cases import Case, Settings
from tests.witness.recording import Step
from tests.witness.workload import arrival_steps, as_workload, one_second


class Entry(NamedTuple):
    """One scheduled request."""

    request: int
    tokens: int
    computed: int  # before, prefix hits included
    hit_tokens: int  # if admitted in this iteration


class Iteration(NamedTuple):
    """One iteration in which anything was scheduled."""

    number: int
    entries: list[Entry]
    preempted: list[int]
    used_blocks: int
    finished: list[int]


def of_vllm(steps: list[Step]) -> list[Iteration]:
    """What vLLM's scheduler did."""
    return [
        Iteration(
            number,
            [
                Entry(*scheduled, dict(step["admitted"]).get(scheduled[0], 0))
                for scheduled in step["scheduled"]
            ],
            step["preempted"],
            step["used_blocks"],
            step["finished"],
        )
        for number, step in enumerate(steps)
        if step["scheduled"] or step["preempted"]
    ]


def of_reference(case: Case) -> list[Iteration]:
    """What the reference simulator does with the same requests; iteration k lasts from k to k + 1 s."""
    workload, settings = as_workload(case), case["settings"]
    contents = ("priority", "parent", "think_s", "prefix_ids", "prefix_offsets", "prefix_block_tokens")
    result = reference.simulate(
        workload.arrival_s.tolist(),
        workload.prompt_tokens.tolist(),
        workload.output_tokens.tolist(),
        lambda replicas, request: 0,
        num_replicas=1,
        engine=reference.Engine(**_engine_settings(settings)),
        cost=one_second(settings),
        **{name: getattr(workload, name) for name in contents},
    )
    finish_s = result.finish_s.tolist()
    return [
        Iteration(
            int(iteration.start_s),
            [Entry(e.request, e.tokens, e.computed, e.hit_tokens) for e in iteration.entries],
            [p.request for p in result.preempted[0] if p.time_s == iteration.start_s],
            iteration.kv_used_blocks,
            [e.request for e in iteration.entries if finish_s[e.request] == iteration.end_s],
        )
        for iteration in result.iterations[0]
    ]


def of_simulator(case: Case, steps: list[Step]) -> list[Iteration]:
    """What the fast simulator does with them; follow-ups come when they did in vLLM's `steps`."""
    workload, settings = as_workload(case), case["settings"]
    arrivals = np.array(arrival_steps(case, steps), np.float64)
    log = counting_log()
    _run(workload, settings, arrivals, log)
    log = recording_log(log)
    finish_s = _run(workload, settings, arrivals, log)
    recorded = IterationLog.of(log)
    return [
        Iteration(
            int(iteration["start_s"]),
            [
                Entry(e["request"], e["tokens"], e["computed"], e["hit_tokens"])
                for e in recorded.entries_of(number)
            ],
            recorded.preemptions["request"][recorded.preemptions["time_s"] == iteration["start_s"]].tolist(),
            iteration["kv_used_blocks"],
            [
                e["request"]
                for e in recorded.entries_of(number)
                if finish_s[e["request"]] == iteration["end_s"]
            ],
        )
        for number, iteration in enumerate(recorded.iterations)
    ]


def _run(workload: Workload, settings: Settings, arrivals: np.ndarray, log: Any) -> np.ndarray:
    """Runs one replica; returns when each request finished (N,)."""
    spec = ReplicaSpec(Engine(**_engine_settings(settings)), one_second(settings))
    fleet = fleet_with(workload, [spec], log=log)
    fleet.requests["arrival_s"] = arrivals
    order = np.argsort(arrivals, kind="stable").astype(np.int32)
    router = make_router("round_robin")
    route_function(fleet, router)(
        fleet,
        order,
        identities_of(workload)[order],
        0.0,
        router.choose,
        router.parameters,
        router.new_memory(1),
        random_state(np.random.SeedSequence(0)),
        router.looks,
        True,
    )
    run_out(fleet, True)
    return np.array(fleet.requests["finish_s"])


def _engine_settings(settings: Settings) -> dict[str, Any]:
    return {
        "max_num_batched_tokens": settings["max_num_batched_tokens"],
        "max_num_seqs": settings["max_num_seqs"],
        "block_size": settings["block_size"],
        "num_kv_blocks": settings["num_kv_blocks"],
        "order": settings["policy"],
        "prefix_caching": settings["enable_prefix_caching"],
        "long_prefill_token_threshold": settings["long_prefill_token_threshold"],
        "reserve_full_prompt": settings["scheduler_reserve_full_isl"],
    }
