"""The log of a fleet's iterations is the reference's, on random fleets with everything in play."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from servegym.envs.sim.llm.cluster.simulate import simulate_fleet
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.view import AVAILABLE, PROMPT_TOKENS, RUNNING, WAITING
from tests.conftest import examples
from tests.envs.sim.llm.cluster.cases import random_fleet
from tests.envs.sim.llm.cluster.test_against_reference import STEPS
from tests.reference.simulate import simulate_fleet as simulate_reference


def choose(replicas, request, *_):
    """A function of whole numbers that it sees, since a recorded simulation runs twice."""
    available = np.flatnonzero(replicas[:, AVAILABLE])
    seen = request[PROMPT_TOKENS] + replicas[:, RUNNING].sum() + 3 * replicas[:, WAITING].sum()
    return int(available[int(seen) % len(available)])


@given(seed=st.integers(0, 2**63 - 1))
@examples(40)
def test_log_is_that_of_the_reference(seed: int) -> None:
    case = random_fleet(seed, frozenset(STEPS["roles"]))
    results = simulate_fleet(case.workload, Router("seen", choose), case.plan, log=True)
    slow = simulate_reference(case.workload, choose, **case.reference_plan([]), check=False)
    assert results.log is not None
    for replica, expected in enumerate(slow.iterations):
        here = np.flatnonzero(results.log.iterations["replica"] == replica)
        iterations = results.log.iterations[here]
        assert [tuple(row) for row in iterations[["tokens", "decodes", "kv_used_blocks"]].tolist()] == [
            (each.tokens, each.num_decodes, each.kv_used_blocks) for each in expected
        ]
        for name in ("start_s", "end_s"):
            times = [getattr(each, name) for each in expected]
            np.testing.assert_allclose(iterations[name], times, rtol=1e-9, atol=1e-12)
        for index, each in zip(here, expected, strict=True):  # in one iteration their order differs
            assert sorted(results.log.entries_of(index).tolist()) == sorted(map(tuple, each.entries))
    assert len(results.log.preemptions) == results.preemptions.sum()
