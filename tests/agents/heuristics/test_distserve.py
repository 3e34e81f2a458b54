"""DistServe: the shortest prefill queue, the decode replica with the fewest requests."""

import pytest

from servegym.agents.heuristics.distserve import distserve
from servegym.costmodels.errors import InputError
from servegym.envs.scenario import load_scenario
from tests.agents.heuristics.rows import choice, rows_of

ROUTER = distserve(("prefill", "prefill", "decode", "decode"))


def test_prefill_by_tokens_decode_by_requests() -> None:
    columns = {"queued_prefill_tokens": [500, 400, 0, 90], "running": [1, 9, 5, 3], "waiting": [0, 0, 0, 1]}
    assert choice(ROUTER, rows_of(4, available=[1, 1, 0, 0], **columns)) == 1
    assert choice(ROUTER, rows_of(4, available=[0, 0, 1, 1], **columns)) == 3


def test_images_go_to_the_encoder_with_the_fewest() -> None:
    router = distserve(("encode", "encode", "prefill"))
    assert choice(router, rows_of(3, available=[1, 1, 0], waiting=[2, 1, 0])) == 1


def test_ties_and_nobody() -> None:
    assert choice(ROUTER, rows_of(4, available=[1, 1, 0, 0], running=[2, 1, 0, 0])) == 1
    assert choice(ROUTER, rows_of(4, available=[0, 0, 1, 1])) == 2
    assert choice(ROUTER, rows_of(4, available=[0] * 4)) == -1


def test_roles_are_checked() -> None:
    assert ROUTER.needs == {"roles"}
    with pytest.raises(InputError, match="router.roles = both: must be one of mixed, prefill"):
        distserve(("both",))


@pytest.mark.compiled
def test_decodes_are_spread_over_a_real_fleet() -> None:
    """A scenario hands out its roles, and every request is routed twice."""
    scenario = load_scenario("disaggregated_4p4d", ("scenario.workload.rate_rps=60",))
    workload = scenario.traffic.test_workload(0).take(slice(0, 400))
    results = scenario.simulate(workload, distserve(scenario.roles))
    decoded = results.replica[workload.output_tokens > 1]
    assert scenario.roles == ("prefill",) * 4 + ("decode",) * 4
    assert set(decoded) == {4, 5, 6, 7} and results.finished.all()
