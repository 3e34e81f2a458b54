"""Lengths that LoongServe (Wu et al., SOSP 2024) was measured with: ShareGPT, L-Eval, LV-Eval, and mixes.

Figures: `long_context.json`, made by `python -m servegym.experiments.fits.fit_long_context` (its docstring
says of what). ShareGPT's and L-Eval's are measured, but for prompts of two of L-Eval's 20 tasks; those of
LV-Eval follow published statistics. Mixes are made as the published scripts make them. Outputs are as
long as the answers of the data sets: the artifact's clients have models go on to just there (`ignore_eos`).
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.lengths import JointLengths, Lengths

Tokens = npt.NDArray[np.int32]

FEWEST_PROMPT, FEWEST_OUTPUT = 16, 4
"""Tokens; requests with less are in no mix of equal parts (the artifact's `4-mix-dataset.py`)."""

SHORTEST, LONGEST = 10, 199_999
"""Of the prompts that a Zipf mix asks for (`4-mix-dataset-zipf.py`: `range(10, 200000)`)."""

POOL = {"sharegpt": 20_000, "l_eval": 2_346, "lv_eval": 4_115}
"""Requests of each data set that a Zipf mix chooses from: L-Eval's instructions, LV-Eval's English contexts.
There are more of ShareGPT, about 70,000; ours are enough for every length that occurs."""

LONG_CONTEXT = (*POOL, "mixed", "zipf")
"""Names of lengths."""


def long_context_lengths(name: str, zipf_exponent: float | None = None) -> Lengths:
    """The lengths `sharegpt`, `l_eval`, `lv_eval`, `mixed` (equal parts of the three) or `zipf`.

    zipf_exponent: of `zipf`, and of no other. InputError for another name, and for an exponent that is
    missing, needless or out of range.
    """
    if name not in LONG_CONTEXT:
        raise InputError(f"lengths = {name}: must be one of {', '.join(LONG_CONTEXT)}")
    if (name == "zipf") != (zipf_exponent is not None):
        needed = "must be given" if name == "zipf" else "must be null"
        raise InputError(f"zipf_exponent = {zipf_exponent}: {needed} with lengths {name}")
    if zipf_exponent is None:
        return MixedLengths() if name == "mixed" else data_set(name)
    if not 0 <= zipf_exponent < math.inf:
        raise InputError(f"zipf_exponent = {zipf_exponent}: must be at least 0 and finite")
    return ZipfLengths(zipf_exponent)


@cache
def data_set(name: str) -> JointLengths:
    """Of one of the three data sets; LV-Eval's five bins are its length levels."""
    figures = json.loads(
        (resources.files("servegym.envs.workloads") / "long_context.json").read_text(encoding="utf-8")
    )[name]
    return JointLengths(
        levels=np.array(figures["levels"]),
        prompt_quantiles=np.array(figures["prompt_quantiles"], dtype=np.int32),
        output_quantiles=np.array(figures["output_quantiles"], dtype=np.int32),
    )


@dataclass(frozen=True)
class MixedLengths:
    """Each of the three data sets equally often, without requests that are very short (see above)."""

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
        """Draw n requests."""
        parts = rng.integers(len(POOL), size=n)
        prompt_tokens, output_tokens = np.zeros((2, n), np.int32)
        for part, name in enumerate(POOL):
            open_ = np.flatnonzero(parts == part)
            while len(open_):
                prompts, outputs = data_set(name).sample(len(open_), rng)
                prompt_tokens[open_], output_tokens[open_] = prompts, outputs
                open_ = open_[(prompts < FEWEST_PROMPT) | (outputs < FEWEST_OUTPUT)]
        return prompt_tokens, output_tokens


@dataclass(frozen=True)
class ZipfLengths:
    """Prompts of x tokens with weight `x ** -exponent`, each replaced by a request of the three data sets
    whose prompt is nearest (the shorter of two), any of those with equal prompts."""

    exponent: float

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
        """Draw n requests."""
        lengths, first, count, outputs = _pool()
        upto = _cumulative_weights(self.exponent)
        asked = SHORTEST + np.searchsorted(upto, rng.random(n) * upto[-1], side="right")
        right = np.clip(np.searchsorted(lengths, asked), 1, len(lengths) - 1)
        nearest = np.where(asked - lengths[right - 1] <= lengths[right] - asked, right - 1, right)
        return lengths[nearest], outputs[first[nearest] + rng.integers(count[nearest])]


@cache
def _cumulative_weights(exponent: float) -> npt.NDArray[np.float64]:
    return np.cumsum(np.arange(SHORTEST, LONGEST + 1, dtype=np.float64) ** -exponent)


@cache
def _pool() -> tuple[Tokens, npt.NDArray[np.intp], npt.NDArray[np.intp], Tokens]:
    """What a Zipf mix chooses from, always the same: prompt lengths that occur, in order; the index of the
    first request of each, their number; outputs of all requests, by prompt."""
    rng = np.random.default_rng(0)
    drawn = [data_set(name).sample(number, rng) for name, number in POOL.items()]
    prompts, outputs = (np.concatenate(column) for column in zip(*drawn, strict=True))
    order = np.argsort(prompts, kind="stable")
    lengths, first, count = np.unique(prompts[order], return_index=True, return_counts=True)
    return lengths, first, count, outputs[order]
