"""Requests of a mix of clients, each with its own rate, burstiness and lengths."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.workload import Workload

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class LengthHistogram:
    """Values of a length in tokens and their probabilities, both (V,)."""

    tokens: Counts
    probability: Floats

    def sample(self, n: int, rng: np.random.Generator) -> Counts:
        """n independent draws."""
        return rng.choice(self.tokens, n, p=self.probability)


@dataclass(frozen=True)
class ClientWindow:
    """What one client does in [start_s, end_s): a stationary renewal process, and the lengths it asks for.

    `law` is that of the interarrivals, `gamma`, `weibull` or `constant`, and `shape` its shape; the scale
    follows from `rate_rps`. `prompt`, `output`: independent of each other, both None where not known.
    """

    start_s: float
    end_s: float
    rate_rps: float
    law: str
    shape: float
    prompt: LengthHistogram | None = None
    output: LengthHistogram | None = None

    def arrivals(self, rate_factor: float, rng: np.random.Generator) -> Floats:
        """Arrival times, ascending, at `rate_factor` times the rate.

        The first gap has the equilibrium distribution (a uniform share of a length-biased gap: Cox, Renewal
        Theory 1962, section 5), so the mean count is exactly rate times length.
        """
        length_s, rate_rps = self.end_s - self.start_s, self.rate_rps * rate_factor
        elapsed_s = rng.random() * self._gaps(1, rng, length_biased=True) / rate_rps
        pieces = [elapsed_s]
        while elapsed_s[-1] < length_s:
            expected = (length_s - elapsed_s[-1]) * rate_rps
            gaps_s = self._gaps(int(expected + 4 * math.sqrt(expected)) + 8, rng) / rate_rps
            elapsed_s = elapsed_s[-1] + np.cumsum(gaps_s)
            pieces.append(elapsed_s)
        times_s = np.concatenate(pieces)
        return self.start_s + times_s[times_s < length_s]

    def _gaps(self, n: int, rng: np.random.Generator, length_biased: bool = False) -> Floats:
        """n gaps of mean 1; length-biased: with density x f(x)."""
        if self.law == "constant":
            return np.ones(n)
        if self.law == "gamma":
            return rng.gamma(self.shape + length_biased, 1 / self.shape, n)
        scale = math.exp(-math.lgamma(1 + 1 / self.shape))
        powers = rng.gamma(1 + 1 / self.shape if length_biased else 1.0, 1.0, n)  # of gap / scale
        return np.asarray(scale * powers ** (1 / self.shape))


def generate_from_clients(
    windows: Sequence[ClientWindow], seed: np.random.SeedSequence, rate_factor: float = 1.0
) -> Workload:
    """All clients' requests in order of arrival, the first window's start as time 0.

    Every client's rate is scaled by `rate_factor`. Windows draw from streams of their own, spawned from
    `seed`. A request of a window without lengths takes prompt and output of a random request that has
    them. Raises `InputError` where there is no window, no request or no length at all.
    """
    if not 0 < rate_factor < math.inf:
        raise InputError(f"rate factor is {rate_factor}, allowed: finite, above 0")
    if not windows:
        raise InputError("client windows are none, allowed: at least one with requests")
    fill_seed, *seeds = seed.spawn(1 + len(windows))
    times_s, prompts, outputs = [], [], []
    for window, stream in zip(windows, seeds, strict=True):
        rng = np.random.default_rng(stream)
        arrivals_s = window.arrivals(rate_factor, rng)
        n = len(arrivals_s)
        times_s.append(arrivals_s)
        prompts.append(np.zeros(n, np.int32) if window.prompt is None else window.prompt.sample(n, rng))
        outputs.append(np.zeros(n, np.int32) if window.output is None else window.output.sample(n, rng))
    arrival_s = np.concatenate(times_s)
    prompt_tokens, output_tokens = np.concatenate(prompts), np.concatenate(outputs)
    known = np.flatnonzero((prompt_tokens > 0) & (output_tokens > 0))
    unknown = np.flatnonzero((prompt_tokens == 0) | (output_tokens == 0))
    if len(known) == 0:
        raise InputError(
            f"clients make {len(arrival_s)} requests, none with known lengths, allowed: at least one"
        )
    donors = np.random.default_rng(fill_seed).choice(known, len(unknown))
    prompt_tokens[unknown], output_tokens[unknown] = prompt_tokens[donors], output_tokens[donors]
    order = np.argsort(arrival_s, kind="stable")
    start_s = min(window.start_s for window in windows)
    return Workload(
        name="client_mix",
        arrival_s=arrival_s[order] - start_s,
        prompt_tokens=prompt_tokens[order],
        output_tokens=output_tokens[order],
    )
