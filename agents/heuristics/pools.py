"""Which stage of its way a request is at, for routers of fleets that prefill and decode apart.

A request is first encoded (where it has images), then prefilled, then decoded, each among the replicas of
that role; a router is told the roles once and sees who is available.
"""

from collections.abc import Sequence

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.cluster.plan import DECODE, ENCODE, MIXED, PREFILL, ROLES
from servegym.envs.sim.llm.router import Array
from servegym.envs.sim.llm.view import AVAILABLE


def role_numbers(roles: Sequence[str]) -> Array:
    """float64 (R,): positions in `ROLES`. InputError for a name that is none."""
    for role in roles:
        if role not in ROLES:
            raise InputError(f"router.roles = {role}: must be one of {', '.join(ROLES)}")
    return np.array([ROLES.index(role) for role in roles], np.float64)


@kernel
def role_of(roles: Array, replica: int) -> int:
    """A replica beyond the list is mixed."""
    return int(roles[replica]) if replica < roles.size else MIXED


@kernel
def stage(replicas: Array, roles: Array) -> int:
    """ENCODE, PREFILL or DECODE, by the roles of those available; -1 where nobody is.

    Mixed replicas alone decode where there are prefill replicas but none that decode: as if all of the former
    had failed, which looks the same.
    """
    prefills, decodes, mixed = False, False, False
    for replica in range(replicas.shape[0]):
        role = role_of(roles, replica)
        if replicas[replica, AVAILABLE] > 0:
            if role != MIXED:
                return role
            mixed = True
        prefills = prefills or role == PREFILL
        decodes = decodes or role == DECODE
    if not mixed:
        return -1
    return DECODE if prefills and not decodes else PREFILL


__all__ = ["DECODE", "ENCODE", "MIXED", "PREFILL", "role_numbers", "role_of", "stage"]
