"""Make workloads of batched inference: renewal arrivals of each model, or those of a trace."""

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.batch_workload import BatchWorkload
from servegym.envs.workloads.client_mix import ClientWindow
from servegym.envs.workloads.popularity import read_shares
from servegym.envs.workloads.rate_profile import RateProfile
from servegym.envs.workloads.stretches import Stretches

Floats = npt.NDArray[np.float64]

ARRIVALS = ("poisson", "gamma", "constant")
"""Laws of the gaps between requests of a model: exponential, Gamma, and all equal."""


def generate_batch_workload(
    arrivals: str,
    rate_rps: float,
    shares: npt.ArrayLike,
    num_requests: int,
    seed: np.random.SeedSequence,
    *,
    shape: float = 1.0,
    profile: RateProfile | None = None,
    period_s: float | None = None,
) -> BatchWorkload:
    """The first `num_requests` requests from time 0 on, at `rate_rps` requests per second of all models.

    shares: (M,) of the requests that ask for each model. arrivals: one of ARRIVALS, for every model a renewal
    process of its own that has been going on for ever (with `constant`, a random phase). shape: of the Gamma
    distribution, 1 / cv^2 (Symphony's `gamma:0.1` has 0.1); must be 1 for the other laws. profile: of the
    mean rate, once every `period_s` seconds (None: once in all).

    Models draw from streams of their own, spawned here from `seed`: one seed gives the same requests at every
    rate, only closer together, and a longer workload begins with the shorter one (without a profile that
    stretches over it). Raises InputError for a value out of range.
    """
    share = read_shares(np.asarray(shares))
    if arrivals not in ARRIVALS:
        raise InputError(f"arrivals is {arrivals!r}, allowed: {', '.join(ARRIVALS)}")
    _require_positive("rate_rps", rate_rps)
    _require_positive("shape", shape)
    if arrivals != "gamma" and shape != 1:
        raise InputError(f"shape is {shape} for {arrivals} arrivals, allowed: 1 (or arrivals: gamma)")
    if num_requests < 1:
        raise InputError(f"num_requests is {num_requests}, allowed: at least 1")
    seeds = seed.spawn(len(share))
    law = "constant" if arrivals == "constant" else "gamma"  # shape 1 is the exponential distribution
    until = 1.05 * num_requests + 20.0
    while True:  # at one request a second
        times = [
            ClientWindow(0.0, until, each, law, shape).arrivals(1.0, np.random.default_rng(stream))
            if each > 0
            else np.zeros(0)
            for each, stream in zip(share, seeds, strict=True)
        ]
        if sum(map(len, times)) >= num_requests:
            break
        until *= 1.5
    model = np.repeat(np.arange(len(share), dtype=np.int32), [len(each) for each in times])
    arrival_s = np.concatenate(times)
    order = np.argsort(arrival_s, kind="stable")[:num_requests]
    arrival_s, model = arrival_s[order] / rate_rps, model[order]
    if profile is not None:
        arrival_s = profile.warp(arrival_s, num_requests / rate_rps if period_s is None else period_s)
    return BatchWorkload(f"{arrivals}_{rate_rps:g}rps", arrival_s, model)


def draw_from_trace(
    stretches: Stretches,
    rate_factor: float,
    shares: npt.ArrayLike,
    num_requests: int,
    keep: float,
    seed: np.random.SeedSequence,
) -> BatchWorkload:
    """The arrivals of `num_requests` requests in a row of a trace, from a random place on, the first at 0.

    Each request of the trace is kept with probability `keep`, comes at `rate_factor` times the trace's rate,
    and asks for a model drawn by `shares` (M,). InputError where the trace has too few.
    """
    share = read_shares(np.asarray(shares))
    place_rng, model_rng = map(np.random.default_rng, seed.spawn(2))
    trace = stretches.draw(num_requests, keep, place_rng).from_first_arrival(rate_factor)
    model = model_rng.choice(len(share), num_requests, p=share).astype(np.int32)
    return BatchWorkload(trace.name, trace.arrival_s, model)


def _require_positive(key: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise InputError(f"{key} is {value}, allowed: finite, above 0")
