"""Who a request is to a router that keeps requests apart: its session, and how its prompt begins."""

import numpy as np

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.view import PREFIX, SESSION
from servegym.envs.workloads import Workload

PREFIX_NUMBERS = 2**53
"""Numbers of prefixes are taken modulo this, so that a float64 holds them exactly."""


def identities_of(workload: Workload, first_number: int = 0) -> np.ndarray:
    """float64 (N, 2), SESSION and PREFIX of each request; request 0 has the number `first_number`."""
    identities = np.empty((workload.num_requests, 2))
    identities[:, 0] = first_number + workload.first_of_chain()
    identities[:, 1] = -1.0
    if workload.prefix_ids is not None and workload.prefix_offsets is not None:
        has_prefix = np.diff(workload.prefix_offsets) > 0
        first_ids = workload.prefix_ids[workload.prefix_offsets[:-1][has_prefix]]
        identities[has_prefix, 1] = first_ids % PREFIX_NUMBERS
    return identities


@kernel
def write_identity(identities: np.ndarray, number: int, row: np.ndarray) -> None:
    """Completes what a router gets of a request, `row` (ROUTER_REQUEST_FEATURES,), with row `number`."""
    row[SESSION] = identities[number, 0]
    row[PREFIX] = identities[number, 1]
