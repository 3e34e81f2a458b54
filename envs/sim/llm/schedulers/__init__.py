"""The schedulers of the field's engines, one per file.

Each is two kernels: `start(fleet, replica_id)` puts the next batch together with the steps of batch.py, and
`horizon(fleet, replica_id)` says for how many iterations from now `start` would find nothing to do but let
the same decodes run, if no request arrives: the simulator skips these. 0 is always correct, and slow.
"""

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.engine import (
    AGENT,
    LIGHTLLM,
    MULTI_BIN,
    ORCA,
    RANKED,
    SARATHI,
    SGLANG,
    STATIC,
    VLLM_V0,
)
from servegym.envs.sim.llm.schedulers import (
    agent,
    lightllm,
    multi_bin,
    orca,
    ranked,
    sarathi,
    sglang,
    static,
    vllm_v0,
    vllm_v1,
)
from servegym.envs.sim.llm.state import Fleet


@kernel
def start(fleet: Fleet, replica_id: int) -> None:
    """Puts the next batch of a replica together, as its scheduler does; none of those of `start_of_any`."""
    scheduler = fleet.engines[fleet.replicas[replica_id].group].scheduler
    if scheduler == SARATHI:
        sarathi.start(fleet, replica_id)
    elif scheduler == VLLM_V0:
        vllm_v0.start(fleet, replica_id)
    elif scheduler == ORCA:
        orca.start(fleet, replica_id)
    elif scheduler == LIGHTLLM:
        lightllm.start(fleet, replica_id)
    elif scheduler == SGLANG:
        sglang.start(fleet, replica_id)
    elif scheduler == AGENT:
        agent.start(fleet, replica_id)
    else:
        vllm_v1.start(fleet, replica_id)


@kernel
def horizon(fleet: Fleet, replica_id: int) -> int:
    """Iterations from now in which the replica's scheduler changes nothing."""
    scheduler = fleet.engines[fleet.replicas[replica_id].group].scheduler
    if scheduler == SARATHI:
        return sarathi.horizon(fleet, replica_id)
    if scheduler == VLLM_V0:
        return vllm_v0.horizon(fleet, replica_id)
    if scheduler == ORCA:
        return orca.horizon(fleet, replica_id)
    if scheduler == LIGHTLLM:
        return lightllm.horizon(fleet, replica_id)
    if scheduler == SGLANG:
        return sglang.horizon(fleet, replica_id)
    if scheduler == AGENT:
        return agent.horizon(fleet, replica_id)
    return vllm_v1.horizon(fleet, replica_id)


@kernel
def start_of_any(fleet: Fleet, replica_id: int) -> None:
    """The same for all schedulers: also those that few fleets have, for which others need not be compiled."""
    scheduler = fleet.engines[fleet.replicas[replica_id].group].scheduler
    if scheduler == RANKED:
        ranked.start(fleet, replica_id)
    elif scheduler == STATIC:
        static.start(fleet, replica_id)
    elif scheduler == MULTI_BIN:
        multi_bin.start(fleet, replica_id)
    else:
        start(fleet, replica_id)


@kernel
def horizon_of_any(fleet: Fleet, replica_id: int) -> int:
    """Iterations from now in which the replica's scheduler, whichever it is, changes nothing."""
    scheduler = fleet.engines[fleet.replicas[replica_id].group].scheduler
    if scheduler == RANKED:
        return ranked.horizon(fleet, replica_id)
    if scheduler == STATIC:
        return static.horizon(fleet, replica_id)
    if scheduler == MULTI_BIN:
        return multi_bin.horizon(fleet, replica_id)
    return horizon(fleet, replica_id)
