"""What an engine did, in one form for vLLM and for our simulators."""

from typing import NamedTuple

from servegym.envs.workloads import Workload
from tests.reference.llm import Engine, simulate
from tests.witness.cases import Settings
from tests.witness.conftest import Step
from tests.witness.workload import one_second


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


def of_reference(workload: Workload, settings: Settings) -> list[Iteration]:
    """What the reference simulator does with the same requests; iteration k lasts from k to k + 1 s."""
    engine = Engine(
        max_num_batched_tokens=settings["max_num_batched_tokens"],
        max_num_seqs=settings["max_num_seqs"],
        block_size=settings["block_size"],
        num_kv_blocks=settings["num_kv_blocks"],
        order=settings["policy"],
        prefix_caching=settings["enable_prefix_caching"],
        long_prefill_token_threshold=settings["long_prefill_token_threshold"],
        reserve_full_prompt=settings["scheduler_reserve_full_isl"],
    )
    contents = ("priority", "parent", "think_s", "prefix_ids", "prefix_offsets", "prefix_block_tokens")
    result = simulate(
        workload.arrival_s.tolist(),
        workload.prompt_tokens.tolist(),
        workload.output_tokens.tolist(),
        lambda replicas, request: 0,
        num_replicas=1,
        engine=engine,
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
