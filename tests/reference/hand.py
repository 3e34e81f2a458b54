"""Small cases to be worked out by hand: constant costs, and batches written in one line."""

from types import SimpleNamespace

import numpy as np

from servegym.envs.sim.llm.ranking import Ranking
from tests.reference.llm import simulate
from tests.reference.simulate import simulate_fleet


def cost_of(overhead_s=0.0, token_s=0.0, **fields):
    """A cost of so many seconds an iteration and a token, free of everything else unless given."""
    tables = {
        "overhead_s": overhead_s,
        "linear_s": token_s * np.arange(65),
        "communication_s": np.zeros(65),
        "lm_head_s": np.zeros(65),
        "sampler_s": np.zeros(65),
        "prefill_chunk_knots": np.array([1.0]),
        "prefill_history_knots": np.array([0.0]),
        "prefill_s_per_pair": np.zeros((1, 1)),
        "decode_kv_knots": np.array([0.0]),
        "decode_attention_s": np.zeros((65, 1)),
        "mixed_decode_attention_s": np.zeros((65, 1)),
        "mixed_s_per_pair": 0.0,
        "prefill_overhead_s": 0.0,
    }
    return SimpleNamespace(**{**tables, **fields})


ONE_SECOND = cost_of(overhead_s=1.0)


def by(key, ranks="batch", **settings):
    """A ranking by `key(row of a request)`."""

    def rank(requests, replica, parameters, memory, keys):
        keys[:] = [key(row) for row in requests]

    return Ranking("by", rank, ranks=ranks, **settings)


def first(replicas, request):
    return 0


def shortest_queue(replicas, request):
    return int(np.argmin(replicas[:, 1] + replicas[:, 2]))


def run(requests, engine, cost=ONE_SECOND, choose=first, num_replicas=1, predicted=None, **columns):
    """`requests` are (arrival_s, prompt_tokens, output_tokens)."""
    arrival_s, prompt, output = zip(*requests, strict=True)
    return simulate(
        arrival_s,
        prompt,
        output,
        choose,
        num_replicas=num_replicas,
        engine=engine,
        cost=cost,
        predicted_output_tokens=predicted,
        **columns,
    )


def first_available(replicas, request):
    return int(np.argmax(replicas[:, 0]))


def run_fleet(requests, replicas, choose=first_available, columns=None, **settings):
    """`requests` are (arrival_s, prompt_tokens, output_tokens), `columns` more of a workload."""
    arrival_s, prompt, output = zip(*requests, strict=True)
    workload = SimpleNamespace(
        arrival_s=arrival_s, prompt_tokens=prompt, output_tokens=output, **(columns or {})
    )
    return simulate_fleet(workload, choose, replicas=replicas, **settings)


def batches(result, replica=0):
    """One line an iteration: `A4@2` prefills 4 tokens of request 0 after 2, `b@5` decodes request 1."""
    return [
        " ".join(
            f"{chr(65 + e.request)}{e.tokens}@{e.computed}"
            if e.is_prefill
            else f"{chr(97 + e.request)}@{e.computed}"
            for e in iteration.entries
        )
        for iteration in result.iterations[replica]
    ]


def kv_used(result, replica=0):
    """KV blocks in use during each iteration."""
    return [iteration.kv_used_blocks for iteration in result.iterations[replica]]


def prefixes(*ids, block_tokens):
    """Columns of a workload: the prefix ids of each request."""
    return {
        "prefix_ids": [i for of_request in ids for i in of_request],
        "prefix_offsets": np.cumsum([0, *map(len, ids)]),
        "prefix_block_tokens": block_tokens,
    }
