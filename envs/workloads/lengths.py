"""Joint distributions of prompt and output lengths to draw requests from."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

# Where the quantile functions are kept: every twentieth, and closer in the tails, which carry the mean.
QUANTILE_LEVELS = np.array([0, 0.01, 0.025, *np.arange(1, 20) / 20, 0.975, 0.99, 1.0])


class Lengths(Protocol):
    """Anything that draws (prompt_tokens, output_tokens), int32 (n,) each, at least 1."""

    def sample(self, n: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Draw n requests."""


@dataclass(frozen=True, eq=False)
class JointLengths:
    """An empirical joint distribution: B equally likely bins of the prompt, quantiles inside each.

    Between the kept levels the quantile functions are linear. Prompt and output are independent inside
    a bin; their dependence is the change of the output quantiles from bin to bin.
    """

    levels: npt.NDArray[np.float64]  # (L,) ascending from 0 to 1
    prompt_quantiles: npt.NDArray[np.int32]  # (B, L) tokens
    output_quantiles: npt.NDArray[np.int32]  # (B, L) tokens, of the requests whose prompt is in bin b

    @classmethod
    def fit(cls, prompt_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike, num_bins: int) -> "JointLengths":
        """Sort (N,) requests by prompt into bins of equal count and take each bin's quantiles.

        Quantiles are observed values (the inverse of the empirical distribution), so they are whole tokens.
        """
        prompts, outputs = np.asarray(prompt_tokens), np.asarray(output_tokens)
        bins = np.array_split(np.argsort(prompts, kind="stable"), num_bins)

        def quantiles(tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
            per_bin = [np.quantile(tokens[b], QUANTILE_LEVELS, method="inverted_cdf") for b in bins]
            return np.array(per_bin, dtype=np.int32)

        return cls(QUANTILE_LEVELS, quantiles(prompts), quantiles(outputs))

    def sample(self, n: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Draw n requests by inversion: one uniform gives the bin and the prompt in it, one the output."""
        prompt_uniform, output_uniform = rng.random((2, n))
        scaled = prompt_uniform * len(self.prompt_quantiles)
        bins = scaled.astype(np.int64)
        prompt_tokens = self._invert(self.prompt_quantiles, bins, scaled - bins)
        return prompt_tokens, self._invert(self.output_quantiles, bins, output_uniform)

    @property
    def mean_output_tokens(self) -> float:
        """The expected output: the integral of each bin's quantile function, in the mean over the bins."""
        return float(np.trapezoid(self.output_quantiles, self.levels, axis=1).mean())

    def _invert(
        self, quantiles: npt.NDArray[np.int32], bins: npt.NDArray[np.int64], uniform: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int32]:
        right = np.searchsorted(self.levels, uniform, side="right")
        left = right - 1
        weight = (uniform - self.levels[left]) / (self.levels[right] - self.levels[left])
        tokens = (1 - weight) * quantiles[bins, left] + weight * quantiles[bins, right]
        return np.rint(tokens).astype(np.int32)


@dataclass(frozen=True)
class ConstantLengths:
    """Every request the same."""

    prompt_tokens: int
    output_tokens: int

    def sample(self, n: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """n equal requests; draws nothing."""
        return np.full(n, self.prompt_tokens, np.int32), np.full(n, self.output_tokens, np.int32)


@dataclass(frozen=True)
class GeometricLengths:
    """Prompt and output independent and geometric on 1, 2, ...: the memoryless lengths of M/M/1."""

    mean_prompt_tokens: float
    mean_output_tokens: float

    def sample(self, n: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Draw n requests."""
        prompt_tokens = rng.geometric(1 / self.mean_prompt_tokens, n).astype(np.int32)
        return prompt_tokens, rng.geometric(1 / self.mean_output_tokens, n).astype(np.int32)
