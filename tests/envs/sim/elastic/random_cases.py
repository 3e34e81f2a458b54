"""Small random fleets and workloads, and what two simulators must agree on."""

from dataclasses import dataclass

import numpy as np

from servegym.costmodels.elastic.cost import ElasticCost
from servegym.costmodels.iterations.cost import IterationCost
from servegym.envs.sim.elastic.fleet import ElasticFleet
from servegym.envs.sim.elastic.simulate import ElasticResults
from servegym.envs.workloads.workload import Workload
from tests.reference.elastic.results import ElasticResults as ReferenceResults

GRID_S = 1 / 1024
"""Cases on a grid have all times at multiples of this: exact in float64, so events coincide."""

MAX_GROUP = 40


@dataclass
class Case:
    """What both simulators are given."""

    rng: np.random.Generator
    fleet: ElasticFleet
    workload: Workload


def random_case(seed: int) -> Case:
    """1 to 16 instances in 1 to 4 nodes, pools for a request or for hundreds, any clock, bursts, any load."""
    rng = np.random.default_rng(seed)
    on_grid = bool(rng.integers(2))
    instances = int(rng.choice([1, 2, 3, 4, 5, 8, 16]))
    per_node = -(-instances // int(rng.integers(1, 5)))
    kv_tokens = int(rng.choice([8, 30, 100, 1000, 200_000]))
    fleet = ElasticFleet(instances, kv_tokens, per_node, random_cost(rng, instances, kv_tokens, on_grid))
    return Case(rng, fleet, random_workload(rng, fleet, on_grid))


def random_cost(rng: np.random.Generator, instances: int, kv_tokens: int, on_grid: bool) -> ElasticCost:
    """A prefill of a full pool takes about as long as 10 decodes; by a law, or any tables."""

    def draw(*shape: int) -> np.ndarray:
        return rng.integers(1, 9, shape) * GRID_S if on_grid else rng.uniform(0.5, 8, shape) * GRID_S

    prefill_s = np.stack([draw(2, instances + 1), draw(2, instances + 1), draw(2, instances + 1)], axis=2)
    if rng.integers(2):  # the more instances, the faster
        prefill_s[:] = prefill_s[0, 0]
        prefill_s[1, :, 0] *= 4
        prefill_s[:, 1:, 1:] /= np.arange(1, instances + 1)[:, np.newaxis]
    prefill_s[:, :, 0] *= float(rng.choice([0.01, 0.1, 1]))
    prefill_s[:, :, 1] *= 0 if on_grid and rng.integers(2) else 8 / kv_tokens
    prefill_s[:, :, 2] *= float(rng.choice([0, 0.1])) / kv_tokens**2
    prefill_s[:, 0] = 0
    return ElasticCost(
        prefill_s=prefill_s,
        decode_s=float(rng.integers(2) * draw(1)[0]),
        iteration=random_iteration(rng, kv_tokens, on_grid),
        exchange_s=draw(2, MAX_GROUP + 1),
        migrate_s_per_token=draw(2) * float(rng.choice([0.01, 1, 30])) / kv_tokens,
        migrate_latency_s=draw(2) * rng.integers(2),
    )


def random_iteration(rng: np.random.Generator, kv_tokens: int, on_grid: bool) -> IterationCost:
    """Decode attention on 1 to 4 knots; what prefills chunks is never used."""

    def draw(*shape: int) -> np.ndarray:
        return rng.integers(1, 5, shape) * GRID_S / 4 if on_grid else rng.uniform(0, 1, shape) * GRID_S

    knots = np.unique(np.append(rng.integers(1, kv_tokens + 1, rng.integers(0, 4)), 0)).astype(float)
    attention_s = np.cumsum(draw(MAX_GROUP + 1, knots.size), axis=1)
    return IterationCost(
        overhead_s=float(draw(1)[0]) + GRID_S,
        linear_s=draw(MAX_GROUP + 1),
        communication_s=draw(MAX_GROUP + 1),
        lm_head_s=draw(MAX_GROUP + 1),
        sampler_s=draw(MAX_GROUP + 1),
        prefill_chunk_knots=np.ones(1),
        prefill_history_knots=np.zeros(1),
        prefill_s_per_pair=np.zeros((1, 1)),
        decode_kv_knots=knots,
        decode_attention_s=attention_s,
        mixed_decode_attention_s=attention_s,
        mixed_s_per_pair=0.0,
    )


def random_workload(rng: np.random.Generator, fleet: ElasticFleet, on_grid: bool) -> Workload:
    """Up to `MAX_GROUP` requests, some of them of the whole fleet or more, many at equal instants."""
    count = int(rng.integers(1, MAX_GROUP + 1))
    gaps = rng.exponential(float(rng.choice([0.1, 2, 10, 50])) * GRID_S, count)
    gaps *= rng.random(count) > rng.choice([0.2, 0.8, 0.95])  # bursts
    if on_grid:
        gaps = np.round(gaps / GRID_S) * GRID_S
    most = fleet.num_instances * fleet.kv_tokens
    typical = float(rng.choice([0.005, 0.02, 0.1, 0.5])) * most
    factor = rng.lognormal(0, float(rng.choice([0.5, 1.5])), count)
    prompt = np.minimum(1 + (typical * factor).astype(int), most + 5)
    output = 1 + rng.exponential(float(rng.choice([0.5, 5, 30])), count).astype(int)
    return Workload("random", np.cumsum(gaps), prompt, output)


def assert_same(fast: ElasticResults, slow: ReferenceResults) -> None:
    """To the bit."""
    np.testing.assert_array_equal(fast.first_token_s, slow.first_token_s, err_msg="first_token_s")
    np.testing.assert_array_equal(fast.finish_s, slow.finish_s, err_msg="finish_s")
    assert fast.finished.tolist() == [outcome == "finished" for outcome in slow.outcome], "finished"
    assert fast.rejected.tolist() == [outcome == "rejected" for outcome in slow.outcome], "rejected"
    for name in ("prefills", "decodes", "scale_ups", "pauses", "migrations"):
        assert getattr(fast, f"num_{name}") == getattr(slow, name), name
    assert fast.migrated_tokens == slow.migrated_tokens, "migrated_tokens"
