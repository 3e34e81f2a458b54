"""What a router needs is refused where it is missing, and identities tell requests apart."""

import numpy as np
import pytest

from servegym.agents.heuristics import HeuristicPolicy
from servegym.costmodels.errors import InputError
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.cluster.plan import FleetPlan, Member
from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.identities import identities_of
from servegym.envs.sim.llm.needs import NEEDS, refuse_unmet_needs
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.sim.llm.stream import simulate_stream
from servegym.envs.sim.llm.view import PREFIX, REPLICA_FEATURES, REQUEST_FEATURES, SESSION
from servegym.envs.workloads import Workload
from servegym.envs.workloads.slo import SloClass
from tests.envs.sim.llm.test_against_reference import dyadic_cost

ENGINE = Engine(32, 4, 100, 4)
CACHING = Engine(32, 4, 100, 4, prefix_caching=True)


def three(**columns) -> Workload:
    return Workload("three", [0.0, 0.0, 1.0], [5, 6, 40], [3, 3, 3], **columns)


PREFIXES = {"prefix_ids": [7, 7, 2**60 + 5], "prefix_offsets": [0, 1, 2, 3], "prefix_block_tokens": 4}


def needing(*needs: str) -> Router:
    return Router("mine", lambda *_: 0, needs=frozenset(needs))


@pytest.mark.parametrize("need", NEEDS)
def test_each_need_is_refused_and_met(need: str) -> None:
    """Without it in every way to simulate; with it nobody complains."""
    what, key = NEEDS[need]
    router, cost = needing(need), dyadic_cost(ENGINE)
    fleet = {"num_replicas": 2, "engine": ENGINE, "cost": cost}
    runs = (
        lambda: simulate(three(), router, **fleet),
        lambda: simulate_fleet(three(), router, FleetPlan([Member(ENGINE, cost)] * 2)),
        lambda: list(simulate_stream([three()], router, **fleet)),
        lambda: load_scenario("generated_8xh100").check_router(router),
    )
    for run in runs:
        with pytest.raises(InputError) as error:
            run()
        assert str(error.value) == f"router mine needs {what}: the scenario has none ({key})"
    rich = three(
        predicted_output_tokens=[3, 3, 3],
        parent=[-1, 0, -1],
        think_s=[0.0, 0.0, 0.0],
        priority=[0, 1, 0],
        tenant=[0, 1, 0],
        slo_class=[0, 0, 0],
        slo_classes=(SloClass("chat", 1.0, 0.1),),
        **PREFIXES,
    )
    refuse_unmet_needs("mine", {need}, rich, [None, CACHING], ["prefill", "decode"])


def test_unknown_needs_are_refused() -> None:
    with pytest.raises(InputError, match="router mine: needs luck: must be among predictions, "):
        needing("luck")


def test_session_is_the_first_of_the_chain_and_prefix_how_the_prompt_begins() -> None:
    workload = Workload(
        "five",
        np.zeros(5),
        [4, 20, 8, 40, 9],
        np.full(5, 2),
        parent=[-1, 0, -1, 1, -1],
        think_s=np.zeros(5),
        prefix_ids=[7, 7, 8, 2**60 + 5],
        prefix_offsets=[0, 1, 3, 3, 4, 4],
        prefix_block_tokens=4,
    )
    expected = [[0, 7], [0, 7], [2, -1], [0, 5], [4, -1]]
    np.testing.assert_array_equal(identities_of(workload), expected)


def test_a_stream_goes_on_counting() -> None:
    """A request's number is its place in the stream, whatever the chunks."""
    seen: list[tuple[float, float]] = []

    def choose(replicas, request, *_):
        seen.append((request[SESSION], request[PREFIX]))
        return 0

    fleet = {"num_replicas": 1, "engine": ENGINE, "cost": dyadic_cost(ENGINE)}
    chunks = [three(**PREFIXES), Workload("next", [2.0], [5], [3])]
    assert sum(len(part.number) for part in simulate_stream(chunks, Router("watch", choose), **fleet)) == 4
    assert seen == [(0, 7), (1, 7), (2, 5), (3, -1)]


@pytest.mark.parametrize("need", ["sessions", "prefixes"])
def test_observations_do_not_serve_routers_that_read_identities(need: str) -> None:
    with pytest.raises(InputError, match=f"router mine: needs {need}: must not read identities"):
        HeuristicPolicy(needing(need))
    HeuristicPolicy(needing("predictions"))


def test_who_a_request_is_stays_unknown_to_policies() -> None:
    seen: list[np.ndarray] = []

    def choose(replicas, request, *_):
        seen.append(request.copy())
        return 0

    policy = HeuristicPolicy(Router("watch", choose))
    policy.reset(2, seed=0)
    replicas = np.ones((2, 3, REPLICA_FEATURES), np.float32)
    policy.act({"request": np.full((2, REQUEST_FEATURES), 7, np.float32), "replicas": replicas})
    np.testing.assert_array_equal(seen, [[7, 7, 7, 7, -1, -1]] * 2)
