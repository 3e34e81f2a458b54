"""A small evaluation with made-up results, for the tests of what is drawn and written from one."""

import numpy as np

from servegym.envs.metrics import SloLimits
from servegym.envs.sim.llm.simulate import Results
from servegym.experiments.evaluation.comparison import Evaluation

NUM_REQUESTS = 40


def results(seed: int, slowness: float, num_replicas: int = 2) -> Results:
    """Arrivals depend on the seed alone; first tokens come `slowness` times as late."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(0.1, NUM_REQUESTS))
    first_token_s = arrival_s + slowness * rng.exponential(0.05, NUM_REQUESTS)
    return Results.all_finished(
        arrival_s=arrival_s,
        prompt_tokens=np.full(NUM_REQUESTS, 100),
        output_tokens=np.full(NUM_REQUESTS, 11),
        replica=np.arange(NUM_REQUESTS) % num_replicas,
        scheduled_s=arrival_s,
        first_token_s=first_token_s,
        finish_s=first_token_s + 0.1,
        preemptions=np.zeros(NUM_REQUESTS, int),
        hit_tokens=np.zeros(NUM_REQUESTS, int),
    )


def toy_evaluation(**slowness: float) -> Evaluation:
    """Policies that are that much slower than each other; the first is the baseline."""
    seeds = [0, 1, 2, 3, 4]
    runs = {policy: [results(seed, factor) for seed in seeds] for policy, factor in slowness.items()}
    return Evaluation(seeds, next(iter(slowness)), runs, [SloLimits(0.05, 1.0)] * len(seeds))
