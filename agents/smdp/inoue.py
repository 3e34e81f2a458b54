"""Mean latency of a server that takes all that wait, however many: closed forms.

Requests arrive as a Poisson process; whenever the server is free it starts a batch of all that wait, with
no largest one; a batch of b takes `alpha_s b + beta_s` seconds. Inoue, "Queueing Analysis of GPU-Based
Inference Servers with Dynamic Batching: A Closed-Form Characterization", arXiv 1912.06322: the exact mean
given the share of time in which the server is idle, and two bounds that need no such share.

>>> bounds = mean_latency_bounds_s(2000.0, 0.1438e-3, 1.8874e-3)  # ResNet-50 on a V100, at 29 % of its rate
>>> exact = mean_latency_s(2000.0, 0.1438e-3, 1.8874e-3)
>>> [round(1e3 * each, 3) for each in (exact, *bounds)]
[4.151, 9.116, 4.153]
"""

import numpy as np

from servegym.agents.smdp.arrivals import arrivals
from servegym.costmodels.errors import InputError

NEGLIGIBLE = 1e-13
MOST_STATES = 1 << 14


def mean_latency_bounds_s(rate_rps: float, alpha_s: float, beta_s: float) -> tuple[float, float]:
    """Two upper bounds of the mean latency in seconds: phi_0 is near at low load, phi_1 at high load."""
    load = _load(rate_rps, alpha_s, beta_s)
    busy = rate_rps * beta_s
    phi_0 = (alpha_s + beta_s) / (2 * (1 - load)) * (1 + 2 * busy + (1 - busy) / (1 + load))
    phi_1 = 1.5 * beta_s / (1 - load) + alpha_s / 2 * (load + 2) / (1 - load**2)
    return phi_0, phi_1


def mean_latency_s(rate_rps: float, alpha_s: float, beta_s: float) -> float:
    """The exact mean latency, seconds."""
    load = _load(rate_rps, alpha_s, beta_s)
    idle = idle_share(rate_rps, alpha_s, beta_s)
    spread = 2 * alpha_s * beta_s + alpha_s**2 + (1 - idle - load) * beta_s / rate_rps
    return alpha_s + beta_s + rate_rps * (1 + 2 * load) * spread / (2 * (1 - load**2))


def idle_share(rate_rps: float, alpha_s: float, beta_s: float) -> float:
    """Share of time in which the server is idle, from the Markov chain of the sizes of successive batches.

    The next batch is of those who arrived during one, or of the next to arrive if nobody did.
    """
    _load(rate_rps, alpha_s, beta_s)
    count = 64
    while count <= MOST_STATES:
        sizes = np.arange(1, count + 1)
        steps = np.zeros((count, count))
        for size in sizes:
            counts, probabilities = arrivals(rate_rps * (alpha_s * size + beta_s))
            following = np.clip(counts, 1, count) - 1
            steps[size - 1] = np.bincount(following, probabilities, count)
        balance = steps.T - np.eye(count)
        balance[0] = 1.0  # in place of one equation, which follows from the others
        shares = np.linalg.solve(balance, np.append(1.0, np.zeros(count - 1)))
        if shares[-1] < NEGLIGIBLE:
            service_s = alpha_s * sizes + beta_s
            idle_s = shares @ np.exp(-rate_rps * service_s) / rate_rps
            return float(idle_s / (idle_s + shares @ service_s))
        count *= 2
    raise InputError(f"rate_rps = {rate_rps:g}: too near to the largest, {1 / alpha_s:g}")


def _load(rate_rps: float, alpha_s: float, beta_s: float) -> float:
    """`rate_rps * alpha_s`, which must be below 1; all must be positive."""
    for key, value in (("rate_rps", rate_rps), ("alpha_s", alpha_s), ("beta_s", beta_s)):
        if not 0 < value < np.inf:
            raise InputError(f"{key} = {value}: must be positive and finite")
    if rate_rps * alpha_s >= 1:
        raise InputError(f"rate_rps = {rate_rps:g}: must be below 1 / alpha_s = {1 / alpha_s:g}")
    return rate_rps * alpha_s
