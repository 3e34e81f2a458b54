"""Make workloads: renewal arrivals with drawn lengths."""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.lengths import Lengths
from servegym.envs.workloads.workload import Workload


def generate(
    arrivals: str,
    rate_rps: float,
    cv: float,
    num_requests: int,
    lengths: Lengths,
    seed_sequence: np.random.SeedSequence,
) -> Workload:
    """Draw `num_requests` requests at `rate_rps` requests per second, from time 0 on.

    `arrivals` is `poisson` (exponential interarrivals, `cv` must be 1) or `gamma`: interarrivals with
    shape 1 / cv^2 and mean 1 / rate_rps, whose coefficient of variation is `cv`.
    Arrivals and lengths are drawn from separate streams spawned here from `seed_sequence`, so the lengths
    are the same at every rate. Spawning advances `seed_sequence`: a second call with the same object gives
    other requests. Raises `InputError` for a value out of range.
    """
    if arrivals not in ("poisson", "gamma"):
        raise InputError(f"arrivals is {arrivals!r}, allowed: poisson, gamma")
    if not 0 < rate_rps < np.inf:
        raise InputError(f"rate_rps is {rate_rps}, allowed: finite, above 0")
    if not 0 < cv < np.inf:
        raise InputError(f"cv is {cv}, allowed: finite, above 0")
    if arrivals == "poisson" and cv != 1:
        raise InputError(f"cv is {cv} for poisson arrivals, allowed: 1 (or arrivals: gamma)")
    if num_requests < 1:
        raise InputError(f"num_requests is {num_requests}, allowed: at least 1")
    arrival_rng, length_rng = (np.random.default_rng(stream) for stream in seed_sequence.spawn(2))
    # shape 1 is the exponential distribution
    gaps_s = arrival_rng.gamma(1 / cv**2, cv**2 / rate_rps, num_requests)
    prompt_tokens, output_tokens = lengths.sample(num_requests, length_rng)
    return Workload(f"{arrivals}_{rate_rps:g}rps", np.cumsum(gaps_s), prompt_tokens, output_tokens)
