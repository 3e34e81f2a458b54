"""A stream of chunks gives what one workload gives, to the bit, in memory that does not grow with it."""

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm import stream
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.sim.llm.stream import Finished, simulate_stream
from servegym.envs.workloads import Workload
from tests.conftest import examples
from tests.envs.sim.llm.test_against_reference import dyadic_cost, random_case

COLUMNS = [field for field in fields(Results) if field.name != "log"]


def in_order(blocks: list[Finished], num_requests: int) -> dict[str, np.ndarray]:
    """The columns of a stream's results in the order of the stream."""
    number = np.concatenate([block.number for block in blocks])
    np.testing.assert_array_equal(np.sort(number), np.arange(num_requests))
    order = np.argsort(number)
    return {
        field.name: np.concatenate([getattr(block.results, field.name) for block in blocks])[order]
        for field in COLUMNS
    }


def cut(workload: Workload, rng: np.random.Generator) -> list[Workload]:
    """The workload in up to six chunks, some of them empty."""
    cuts = np.sort(rng.integers(0, workload.num_requests + 1, rng.integers(0, 6)))
    bounds = [0, *cuts.tolist(), workload.num_requests]
    return [workload.take(slice(first, last)) for first, last in pairwise(bounds)]


@given(
    seed=st.integers(0, 2**63 - 1),
    router=st.sampled_from(["round_robin", "least_outstanding_tokens", "random", "sal"]),
    slots=st.integers(4, 9),
)
@examples(200)
def test_equal_to_one_workload_to_the_bit(seed: int, router: str, slots: int) -> None:
    """Slots are used again and added within a few requests."""
    case = random_case(seed)
    workload, engine, cost, num_replicas = case.workload, case.engine, case.cost, case.num_replicas
    assume(engine.scheduler != "vllm_v0")
    engine.prefix_caching = False
    engine.order = "fcfs"
    chosen = make_router(router)
    whole = simulate(workload, chosen, num_replicas=num_replicas, engine=engine, cost=cost, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "MIN_SLOTS", slots)
        blocks = list(
            simulate_stream(
                cut(workload, np.random.default_rng(seed)),
                chosen,
                num_replicas=num_replicas,
                engine=engine,
                cost=cost,
                seed=seed,
            )
        )
    found = in_order(blocks, workload.num_requests)
    for field in COLUMNS:
        np.testing.assert_array_equal(found[field.name], getattr(whole, field.name), err_msg=field.name)


def steady(num_requests: int, gap_s: float) -> Workload:
    return Workload(
        "steady",
        np.arange(num_requests) * gap_s,
        np.full(num_requests, 8, np.int32),
        np.full(num_requests, 4, np.int32),
    )


def test_memory_grows_with_requests_in_flight_only() -> None:
    engine = Engine(16, 8, 64)
    cost = dyadic_cost(engine)

    def most_slots(gap_s: float, num_requests: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream, "MIN_SLOTS", 16)
            sizes: list[int] = []
            harvest = stream._Slots.harvest

            def noted(slots: stream._Slots) -> Finished:
                sizes.append(slots.fleet.requests.size)
                return harvest(slots)

            patch.setattr(stream._Slots, "harvest", noted)
            router = make_router("round_robin")
            for _ in simulate_stream(
                [steady(num_requests, gap_s)], router, num_replicas=1, engine=engine, cost=cost
            ):
                pass
        return max(sizes)

    assert most_slots(1000.0, 200) == most_slots(1000.0, 2000) == 16
    assert 200 <= most_slots(0.0, 200) <= 400


def test_chunks_must_go_on_in_time() -> None:
    engine = Engine(16, 8, 64)
    chunks = [steady(3, 1.0), steady(3, 1.0)]
    with pytest.raises(InputError, match=r"arrival_s starts at 0.0, must not be before .* 2.0"):
        list(
            simulate_stream(
                chunks, make_router("round_robin"), num_replicas=2, engine=engine, cost=dyadic_cost(engine)
            )
        )


def test_what_needs_forgotten_requests_is_refused() -> None:
    engine = Engine(16, 8, 64, prefix_caching=True)
    blocks = simulate_stream(
        [steady(3, 1.0)], make_router("round_robin"), num_replicas=1, engine=engine, cost=dyadic_cost(engine)
    )
    with pytest.raises(InputError, match="a stream forgets requests"):
        next(blocks)
