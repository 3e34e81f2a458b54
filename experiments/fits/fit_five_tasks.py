"""Makes `envs/workloads/fitted/five_tasks.json`: lengths around the means that a paper states.

    python -m servegym.experiments.fits.fit_five_tasks --out FILE

Jain et al., "Intelligent Router for LLM Workloads" (arXiv 2408.13510) mix requests of five tasks and state
the mean prompt and output of each. Our reading of the rest: the tasks are equally likely; within one, prompts
have a coefficient of variation of 0.5 (gamma) and outputs of 1 (exponential), independently.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from servegym.envs.workloads.lengths import QUANTILE_LEVELS
from servegym.experiments.fits.fit_workload import as_json

TASKS = {
    "wnut": (26, 64),
    "translation": (29, 62),
    "eli5": (30, 334),
    "squad": (125, 220),
    "imdb": (212, 143),
}
"""Mean prompt and output tokens of each, by mean prompt."""

RATE_RPS = 20.0
"""Of the paper's runs on 4 V100s, of 2,000 requests each."""

SAMPLES = 200_000
"""Draws that the quantiles are taken from."""


def fit() -> str:
    """The JSON text of the lengths."""
    rng = np.random.default_rng(0)
    prompts = [_quantiles(mean, rng.gamma(4.0, 0.25, SAMPLES)) for mean, _ in TASKS.values()]
    outputs = [_quantiles(mean, rng.exponential(1.0, SAMPLES)) for _, mean in TASKS.values()]
    return as_json(
        {
            "name": "five_tasks",
            "provenance": {
                "source": "arXiv 2408.13510",
                "attribution": "K. Jain et al.: Intelligent Router for LLM Workloads. Mean prompt and output "
                "tokens of five tasks; the spread around them and their shares are assumed.",
                "window": "none: made from means",
                "command": "python -m servegym.experiments.fits.fit_five_tasks --out five_tasks.json",
            },
            "rate_rps": RATE_RPS,
            "interarrival_cv": 1.0,
            "levels": QUANTILE_LEVELS.tolist(),
            "prompt_quantiles": prompts,
            "output_quantiles": outputs,
        }
    )


def _quantiles(mean: float, relative: np.ndarray) -> list[int]:
    """Of lengths whose mean is `mean`, linear between the levels, from draws around 1."""
    kept = np.quantile(relative, QUANTILE_LEVELS)
    scaled = kept * mean / np.trapezoid(kept, QUANTILE_LEVELS)
    return [int(tokens) for tokens in np.maximum(1, np.rint(scaled))]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Make lengths of requests from the means of five tasks.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    parser.parse_args(arguments).out.write_text(fit(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
