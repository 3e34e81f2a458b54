"""What a router has sent to a replica and does not see yet: on the way at the instant seen, or sent since.

Of each replica it is counted what was sent so far, and what of that is settled: there, or off the way.
Unseen is what was sent by now less what was settled at the instant that is seen.
"""

import numpy as np

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.cluster.plan import ENCODE
from servegym.envs.sim.llm.cluster.state import Cluster
from servegym.envs.sim.llm.state import NOBODY
from servegym.envs.sim.llm.view import UNSEEN_PREFILL_TOKENS, UNSEEN_REQUESTS


@kernel
def _tokens_to_prefill(cluster: Cluster, request_id: int) -> int:
    """Of a request on its way: none where it brings its KV, or has its images encoded."""
    journey = cluster.journeys[request_id]
    if journey.holder != NOBODY or cluster.members[journey.replica].role == ENCODE:
        return 0
    tokens: int = cluster.fleet.requests[request_id].prompt_tokens
    return tokens


@kernel
def set_out(cluster: Cluster, request_id: int) -> None:
    """The router has sent a request to its `replica`."""
    journey = cluster.journeys[request_id]
    journey.on_way = 1
    member = cluster.members[journey.replica]
    member.sent_requests += 1
    member.sent_tokens += _tokens_to_prefill(cluster, request_id)


@kernel
def settle(cluster: Cluster, request_id: int) -> None:
    """A request that may be on its way, and still has its `holder`, is so no longer."""
    journey = cluster.journeys[request_id]
    if journey.on_way:
        journey.on_way = 0
        member = cluster.members[journey.replica]
        member.settled_requests += 1
        member.settled_tokens += _tokens_to_prefill(cluster, request_id)


@kernel
def write_settled(cluster: Cluster, replica_id: int, row: np.ndarray) -> None:
    """Leaves in a row what was settled by now, for `write_unseen`."""
    row[UNSEEN_REQUESTS] = -cluster.members[replica_id].settled_requests
    row[UNSEEN_PREFILL_TOKENS] = -cluster.members[replica_id].settled_tokens


@kernel
def write_unseen(cluster: Cluster, replica_id: int, row: np.ndarray) -> None:
    """Completes a row, of now or of an earlier instant, for a router that asks now."""
    row[UNSEEN_REQUESTS] += cluster.members[replica_id].sent_requests
    row[UNSEEN_PREFILL_TOKENS] += cluster.members[replica_id].sent_tokens
